"""Stage two: a plain softmax regression on one task's rows; the nearest-class-mean baseline."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.classification.classifier import TaskFeatures, Training, find_classifier
from pipeline.classification.classifiers import ncm, softmax
from pipeline.classification.rows import new_softmax
from pipeline.errors import UserError
from pipeline.linear.head import Head
from pipeline.linear.softmax import train_softmax
from pipeline.parts import names
from pipeline.progress import Progress

CENTRES = 3 * torch.eye(4, 8)
LABELS = torch.arange(80) % 4
FEATURES = CENTRES[LABELS] + torch.randn(80, 8, generator=torch.Generator().manual_seed(0))


def training(start: Head | None = None) -> Training:
    generator = torch.Generator().manual_seed(0)
    return Training(batch_size=16, lr=0.05, epochs=20, start=start, generator=generator, progress=Progress("test", 0))


def train(views: torch.Tensor = FEATURES[None], start: Head | None = None) -> Head:
    return new_softmax(views, LABELS, training(start))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_a_plain_linear_layer_trained_alike(dtype: torch.dtype, rounding: float) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(8, 4)
    nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
    nn.init.zeros_(layer.bias)
    layer.to(dtype)
    start = Head(layer.weight.detach().clone(), layer.bias.detach().clone())
    features = FEATURES.to(dtype)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(20):
        for rows in torch.randperm(80, generator=generator).split(16):
            optimiser.zero_grad()
            functional.cross_entropy(layer(features[rows]), LABELS[rows]).backward()
            optimiser.step()
    again = torch.Generator().manual_seed(0)
    torch.testing.assert_close(train().weight, layer.weight.float(), rtol=0, atol=1e-5)  # it draws this start, too
    nn.init.trunc_normal_(torch.empty(4, 8), std=0.02, generator=again)  # the numbers that the start took
    head = train_softmax(start, features[None], LABELS, batch_size=16, lr=0.05, epochs=20, generator=again)
    torch.testing.assert_close(head.weight, layer.weight, rtol=0, atol=rounding)
    torch.testing.assert_close(head.bias, layer.bias, rtol=0, atol=rounding)


def test_learns_separable_classes_and_leaves_its_input_alone() -> None:
    before = FEATURES.clone()
    head = train()
    assert (head.logits(FEATURES).argmax(1) == LABELS).float().mean() > 0.95
    assert torch.equal(FEATURES, before)
    assert not head.weight.requires_grad


def test_divergence_and_unknown_names_are_one_line() -> None:
    with pytest.raises(UserError, match="lower classifier_lr"):
        train(FEATURES[None] * torch.inf)
    with pytest.raises(UserError, match="classifier 'svm' is unknown: choose one of aligned_softmax"):
        find_classifier("svm")


def test_nearest_mean_head_names_the_class_of_the_most_similar_mean() -> None:
    _, head = ncm.learn({}, TaskFeatures(FEATURES[None], FEATURES, None, LABELS), training())
    queries = functional.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(3)), dim=1)
    for query, predicted in zip(queries, head.logits(queries).argmax(1), strict=True):
        similarity = [
            functional.cosine_similarity(query, functional.normalize(FEATURES[c == LABELS], dim=1).mean(0), dim=0)
            for c in range(4)
        ]
        assert int(predicted) == max(range(4), key=lambda c: float(similarity[c]))


def test_rows_of_earlier_tasks_are_never_touched() -> None:
    first, second = two_tasks()
    state, head = softmax.learn({}, first, training())
    _, longer = softmax.learn(state, second, training())
    assert torch.equal(longer.weight[:2], head.weight)
    assert torch.equal(longer.bias[:2], head.bias)
    assert len(longer.bias) == 4


def two_tasks() -> list[TaskFeatures]:
    """Two tasks of two classes. Before the second, the LayerNorms move all old features by a rotation."""
    parts = []
    for first in (0, 2):
        rows = (first == LABELS) | (first + 1 == LABELS)
        features = FEATURES[rows]
        parts.append(TaskFeatures(features[None], features, features, LABELS[rows] - first, task=first // 2))
    return parts


@pytest.mark.parametrize("name", names("classifier"))
def test_learns_task_by_task_and_keeps_no_sample(name: str) -> None:
    sizes = []
    for copies in (1, 5):  # as many images again make no larger state
        state: dict[str, torch.Tensor] = {}
        for task in two_tasks():
            again = TaskFeatures(
                task.views.repeat(1, copies, 1),
                task.own.repeat(copies, 1),
                task.own.repeat(copies, 1),
                task.labels.repeat(copies),
                task=task.task,
            )
            state, head = find_classifier(name).learn(state, again, training())
        assert head.logits(FEATURES).shape == (80, 4)
        accuracy = (head.logits(FEATURES).argmax(1) == LABELS).float().mean()
        # What is published as cls lets go of old classes here; with `fisher: images` it reaches 0.7.
        assert accuracy > (0.5 if name == "cls" else 0.85)
        sizes.append(sum(tensor.numel() for tensor in state.values()))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", ["lda", "ridge", "ncm"])
def test_closed_forms_do_not_depend_on_the_order_of_the_tasks(name: str) -> None:
    heads = []
    for tasks in (two_tasks(), two_tasks()[::-1]):
        state: dict[str, torch.Tensor] = {}
        for task in tasks:
            state, head = find_classifier(name).learn(state, task, training())
        heads.append(head)
    swapped = torch.tensor([2, 3, 0, 1])
    torch.testing.assert_close(heads[1].logits(FEATURES)[:, swapped], heads[0].logits(FEATURES), atol=1e-4, rtol=1e-4)


def test_carried_gaussians_need_one_model_for_all() -> None:
    with pytest.raises(UserError, match="this classifier needs one model for all tasks: set selection: average"):
        find_classifier("carried_gaussians").learn({}, TaskFeatures(FEATURES[None], FEATURES, None, LABELS), training())


def test_each_epoch_sees_the_next_view_and_a_given_start_is_kept() -> None:
    copies = FEATURES.expand(3, -1, -1)
    assert torch.equal(train(copies).weight, train().weight)
    assert not torch.equal(train(torch.stack([FEATURES, FEATURES + 1])).weight, train().weight)
    start = Head(CENTRES.clone(), torch.zeros(4))
    assert not torch.equal(train(start=start).weight, train().weight)
    assert torch.equal(start.weight, CENTRES)
