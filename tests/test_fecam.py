"""`classifier: fecam` against the published formulas, written out with numpy, scipy and scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.preprocessing import normalize
from torch import Tensor

from pipeline.classification.classifier import TaskFeatures, Training
from pipeline.classification.classifiers.fecam import Options, learn
from pipeline.linear.head import Head
from pipeline.linear.steps import append_step, step_heads
from pipeline.progress import Progress

DIM = 12
PUBLISHED = [(1.0, 0.0), (10.0, 10.0)]  # for CIFAR-100 and CORe50, and for ImageNet-R


def draw(seed: int, classes: int, per_class: int) -> tuple[Tensor, Tensor]:
    """Features around a common direction, as those of a ViT are, with a covariance of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    mixing = torch.randn(classes, DIM, DIM, generator=generator) / 2
    noise = torch.randn(len(labels), 1, DIM, generator=generator) @ mixing[labels]
    centres = 2 + torch.randn(classes, DIM, generator=generator)
    return 3 * (centres[labels] + noise[:, 0]), labels


def task(features: Tensor, labels: Tensor, classes: Tensor | None = None) -> TaskFeatures:
    return TaskFeatures(features[None], features, None, labels, classes)


def learned(*tasks: TaskFeatures, options: Options | None = None) -> tuple[dict[str, Tensor], Head]:
    state: dict[str, Tensor] = {}
    training = Training(8, 0.01, 1, None, torch.Generator(), Progress("test", 0), options=options or Options())
    for given in tasks:
        state, head = learn(state, given, training)
    return state, head


def distances(features: Tensor, labels: Tensor, queries: Tensor, alphas: tuple[float, float]) -> Any:  # noqa: ANN401
    """Squared Mahalanobis distances [B, C] as published."""
    x, q = normalize(features.double().numpy()), normalize(queries.double().numpy())
    found = []
    for c in range(int(labels.max()) + 1):
        of_class = x[labels.numpy() == c]
        covariance = np.cov(of_class.T)
        beside = covariance[~np.eye(DIM, dtype=bool)].mean()
        shrunk = covariance + alphas[0] * covariance.diagonal().mean() * np.eye(DIM)
        shrunk += alphas[1] * beside * (1 - np.eye(DIM))
        deviations = np.sqrt(shrunk.diagonal())
        precision = np.linalg.pinv(shrunk / np.outer(deviations, deviations))
        found.append(cdist(q, of_class.mean(0, keepdims=True), "mahalanobis", VI=precision)[:, 0] ** 2)
    return np.stack(found, 1)


@pytest.mark.parametrize("per_class", [2, 5, 40])  # fewer images than dimensions, too
@pytest.mark.parametrize("alphas", PUBLISHED)
def test_scores_are_minus_half_the_published_distances(alphas: tuple[float, float], per_class: int) -> None:
    (features, labels), (queries, _) = draw(0, 4, per_class), draw(1, 4, 9)
    options = Options(diagonal=alphas[0], off_diagonal=alphas[1])
    _, head = learned(task(features, labels), options=options)
    expected = -distances(features, labels, queries, alphas) / 2
    found = head.logits(queries).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert (found.argsort(1) == expected.argsort(1)).all()
    np.testing.assert_allclose(head.logits(7 * queries).double().numpy(), found, atol=1e-5, rtol=0)


def test_a_class_of_one_image_has_the_covariance_of_a_ball() -> None:
    (features, labels), (queries, _) = draw(0, 1, 20), draw(1, 2, 9)
    alone = draw(2, 1, 1)[0]
    _, head = learned(task(torch.cat([features, alone]), torch.cat([labels, torch.tensor([1])])))
    unit = torch.nn.functional.normalize
    expected = -(unit(queries, dim=1) - unit(alone, dim=1)).square().sum(1) / 2
    torch.testing.assert_close(head.logits(queries)[:, 1], expected, atol=1e-5, rtol=0)


def test_the_order_of_images_does_not_matter() -> None:
    (features, labels), (queries, _) = draw(0, 4, 9), draw(1, 4, 9)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    _, head = learned(task(features, labels))
    _, other = learned(task(features[order], labels[order]))
    torch.testing.assert_close(other.logits(queries), head.logits(queries), atol=1e-5, rtol=0)


def test_a_new_task_changes_no_old_row_and_each_row_is_stored_once() -> None:
    (first, labels), (second, new), (queries, _) = draw(0, 3, 9), draw(1, 2, 30), draw(2, 4, 9)
    heads = [learned(task(first, labels))[1], learned(task(first, labels), task(second, new))[1]]
    for name, old in heads[0].tensors().items():
        assert torch.equal(heads[1].rows(0, 3).tensors()[name], old)
    stored = append_step(append_step({}, heads[0]), heads[1])
    assert len(stored["factors"]) == 5
    for before, after in zip(heads, step_heads(stored), strict=True):
        assert torch.equal(before.logits(queries), after.logits(queries))


@pytest.mark.parametrize("alphas", PUBLISHED)
def test_a_class_that_comes_again_is_that_of_all_its_images(alphas: tuple[float, float]) -> None:
    (features, labels), (queries, _) = draw(0, 4, 15), draw(1, 4, 9)
    options = Options(diagonal=alphas[0], off_diagonal=alphas[1])
    early = torch.arange(len(labels)) % 3 == 0
    parts = [(early, [0, 1]), (~early & (labels < 3), [0, 1, 2]), (labels == 3, [3]), (early & (labels == 2), [2])]
    tasks = []
    for chosen, classes in parts:
        rows = chosen & torch.isin(labels, torch.tensor(classes))
        within = torch.tensor([classes.index(c) for c in labels[rows].tolist()])
        tasks.append(task(features[rows], within, torch.tensor(classes)))
    state, head = learned(*tasks, options=options)
    at_once, _ = learned(task(features, labels), options=options)
    assert state["counts"].tolist() == [15] * 4
    torch.testing.assert_close(state["means"], at_once["means"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state["scatters"], at_once["scatters"], rtol=1e-5, atol=1e-7)
    expected = -distances(features, labels, queries, alphas) / 2
    np.testing.assert_allclose(head.logits(queries).double().numpy(), expected, atol=1e-4, rtol=0)
