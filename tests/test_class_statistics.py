"""Statistics per vector, per block and per class against their definitions; carried ones under a linear drift."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from pipeline.classification.carrying import CarryOptions, carried
from pipeline.classification.classifier import TaskFeatures, Training, find_classifier
from pipeline.classification.classifiers.class_gaussians import Options as ClassOptions
from pipeline.classification.classifiers.lda import Options as LdaOptions
from pipeline.layout import Layout
from pipeline.linear import anchor
from pipeline.linear.head import Head
from pipeline.linear.steps import append_step, step_heads
from pipeline.progress import Progress

LAYOUT = Layout(dim=3, blocks=2, per_block=2)  # 12 numbers
OWN, SHRINKAGE = 0.15, 0.3


def training(options: object) -> Training:
    return Training(8, 0.01, 1, None, torch.Generator().manual_seed(0), Progress("test", 0), options=options)


def draw(seed: int, classes: int, per_class: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    mixing = torch.randn(classes, LAYOUT.size, LAYOUT.size, generator=generator)
    noise = torch.randn(len(labels), 1, LAYOUT.size, generator=generator) @ mixing[labels]
    return 2 * torch.randn(classes, LAYOUT.size, generator=generator)[labels] + noise[:, 0], labels


def task(features: Tensor, labels: Tensor, before: Tensor | None = None, queries: Tensor | None = None) -> TaskFeatures:
    return TaskFeatures(
        features[None], features, features if before is None else before, labels, layout=LAYOUT, queries=queries
    )


def learn(name: str, options: object, *tasks: TaskFeatures) -> tuple[dict[str, Tensor], Head]:
    state: dict[str, Tensor] = {}
    for given in tasks:
        state, head = find_classifier(name).learn(state, given, training(options))
    return state, head


def log_likelihoods(
    features: Tensor, labels: Tensor, queries: Tensor, covariance_of: Callable[[Any, Any], Any]
) -> np.ndarray[Any, Any]:
    """log N(q; m_c, S_c) up to a constant per query, from numpy and scipy alone: [B, C]."""
    x, y, q = features.double().numpy(), labels.numpy(), queries.double().numpy()
    scores = []
    means = [x[y == c].mean(0) for c in range(y.max() + 1)]
    own = [np.cov(x[y == c].T, bias=True) for c in range(y.max() + 1)]
    pooled = sum(np.sum(y == c) * own[c] for c in range(y.max() + 1)) / len(y)
    for mean, cov in zip(means, own, strict=True):
        scores.append(multivariate_normal(mean, covariance_of(cov, pooled)).logpdf(q))
    return np.stack(scores, 1)


def spread(pooled: Any) -> Any:  # noqa: ANN401
    """Each vector's mean variance on the diagonal."""
    return np.diag(np.repeat(pooled.diagonal().reshape(-1, LAYOUT.dim).mean(1), LAYOUT.dim))


def assert_same_scores(head: Head, queries: Tensor, expected: np.ndarray[Any, Any]) -> None:
    found = head.logits(queries).double().numpy()
    found, expected = (scores - scores.mean(1, keepdims=True) for scores in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def shared(own: Any, pooled: Any) -> Any:  # noqa: ANN401
    del own
    return (1 - SHRINKAGE) * pooled + SHRINKAGE * spread(pooled)


def mixed(own: Any, pooled: Any) -> Any:  # noqa: ANN401
    return OWN * own + (1 - OWN - SHRINKAGE) * pooled + SHRINKAGE * spread(pooled)


CASES = {
    "lda": (LdaOptions, {}, shared),
    "carried_gaussians": (CarryOptions, {}, shared),
    "class_gaussians": (ClassOptions, {"own": OWN, "rank": 12}, mixed),
}


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_log_likelihoods_of_the_textbook(name: str, per_block: bool) -> None:
    record, more, covariance_of = CASES[name]
    (features, labels), (queries, _) = draw(0, 4), draw(1, 3)
    _, head = learn(name, record(shrinkage=SHRINKAGE, per_block=per_block, **more), task(features, labels))
    cuts = (slice(0, 6), slice(6, 12)) if per_block else (slice(None),)
    expected = sum(log_likelihoods(features[:, cut], labels, queries[:, cut], covariance_of) for cut in cuts)
    assert_same_scores(head, queries, np.asarray(expected))


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("name", ["carried_gaussians", "class_gaussians"])
def test_views_count_as_images(name: str, is_known: bool) -> None:
    """Statistics are those of all views. The map of old classes is that of all views, too, if their moves are known."""
    record, more, covariance_of = CASES[name]
    options = record(shrinkage=SHRINKAGE, per_block=False, **more)
    first, (images, labels), (flipped, _), (queries, _) = (draw(seed, 3) for seed in range(4))
    moved = images + 0.1 * flipped
    views = replace(task(moved, labels, before=images), views=torch.stack([moved, flipped]))
    fitted = task(moved, labels, before=images)
    if is_known:
        flipped_before = flipped + 0.1 * images
        views = replace(views, views_before=torch.stack([images, flipped_before]))
        fitted = replace(
            fitted, own=torch.cat([moved, flipped]), before=torch.cat([images, flipped_before])
        )  # two images instead of two views of one
    _, head = learn(name, options, task(*first), views)
    alone = carried(carried({}, task(*first), CarryOptions()).state, fitted, CarryOptions())
    assert alone.move
    old = alone.move.points(first[0].double()).float()
    x, y = torch.cat([old, moved, flipped]), torch.cat([first[1], labels + 3, labels + 3])
    assert_same_scores(head, queries, log_likelihoods(x, y, queries, covariance_of))


def test_blocks_are_cut_out_of_every_tensor_alike() -> None:
    images = [draw(seed, 3)[0] for seed in range(7)]
    features = replace(
        task(images[0], draw(0, 3)[1], before=images[1], queries=images[2]),
        views=torch.stack(images[3:5]),
        views_before=torch.stack(images[5:7]),
    )
    blocks = features.of_blocks()
    assert len(blocks) == LAYOUT.blocks
    for name in ("views", "own", "before", "queries", "views_before"):
        assert torch.equal(torch.cat([getattr(block, name) for block in blocks], -1), getattr(features, name))


def test_a_low_rank_keeps_the_strongest_directions_of_each_class() -> None:
    (features, labels), (queries, _) = draw(0, 4), draw(1, 3)

    def strongest(own: Any, pooled: Any) -> Any:  # noqa: ANN401
        values, vectors = np.linalg.eigh(own)
        return mixed((vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T, pooled)

    options = ClassOptions(shrinkage=SHRINKAGE, per_block=False, own=OWN, rank=2)
    _, head = learn("class_gaussians", options, task(features, labels))
    assert_same_scores(head, queries, log_likelihoods(features, labels, queries, strongest))


def test_directions_are_kept_up_to_the_rank_only() -> None:
    (first, labels), (second, new) = draw(0, 4), draw(1, 2)
    for rank, kept in ((2, 2), (4096, LAYOUT.size)):
        options = ClassOptions(per_block=False, rank=rank)
        state, head = learn("class_gaussians", options, task(first, labels), task(second, new, second + 1))
        assert state["directions"].shape == (6, kept, LAYOUT.size)
        assert head.factors is not None
        assert head.factors.shape == (6, kept, LAYOUT.size)


def drift(seed: int) -> Callable[[Tensor], Tensor]:
    """A linear drift of each vector."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [torch.eye(LAYOUT.dim) + 0.3 * torch.randn(LAYOUT.dim, LAYOUT.dim, generator=generator) for _ in range(4)]
    matrix, move = torch.block_diag(*blocks), torch.randn(LAYOUT.size, generator=generator)
    return lambda features: features @ matrix + move


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize("name", ["carried_gaussians", "class_gaussians"])
def test_what_is_carried_through_a_linear_drift_is_what_old_images_would_give(
    name: str, per_block: bool, anchored: bool
) -> None:
    record, more, _ = CASES[name]
    options = record(shrinkage=SHRINKAGE, penalty=0.0, per_block=per_block, anchor=anchored, **more)
    (first, labels), (second, new), (third, last) = draw(0, 3), draw(1, 2), draw(2, 2)
    one, two, three = drift(3), drift(4), drift(5)
    _, followed = learn(
        name,
        options,
        task(one(first), labels, first, first),
        task(two(one(second)), new, one(second), second),
        task(three(two(one(third))), last, two(one(third)), third),
    )
    now = [three(two(one(features))) for features in (first, second, third)]
    _, fresh = learn(
        name,
        options,
        *(
            task(x, y) if not anchored else task(x, y, x, q)
            for x, y, q in ((now[0], labels, first), (now[1], new, second), (now[2], last, third))
        ),
    )
    queries, _ = draw(6, 3)
    torch.testing.assert_close(followed.logits(queries), fresh.logits(queries), atol=2e-2, rtol=2e-3)


def test_an_anchor_knows_where_means_are_that_the_map_has_lost() -> None:
    """The images of later tasks are alike, so that the carrying map sees only a shift and loses the turn."""
    (first, labels), (second, new) = draw(0, 6, 30), draw(1, 2, 30)
    turn = drift(3)
    narrow = first.mean(0) + 0.01 * second
    tasks = [task(first, labels, first, first), task(turn(narrow), new, narrow, narrow)]
    held = anchor.added(anchor.anchor_of({}, LAYOUT.size, LAYOUT.vectors), first, turn(first), labels)
    expected = torch.stack([turn(first)[labels == c].mean(0) for c in range(6)])
    torch.testing.assert_close(anchor.predicted_means(held, 0.0).float(), expected, atol=1e-3, rtol=1e-3)

    after = carried({}, tasks[0], CarryOptions(penalty=1.0, anchor=True))
    final = carried(after.state, tasks[1], CarryOptions(penalty=1.0, anchor=True))
    plain = final.state["means"]
    assert torch.equal(final.best.means[6:], plain[6:]), "new means are exact"
    part_of = {name.removeprefix("anchor."): x for name, x in final.state.items() if name.startswith("anchor.")}
    predicted = anchor.predicted_means(anchor.Anchor(**part_of), 1.0)
    torch.testing.assert_close(final.best.means[:6], (plain[:6] + predicted[:6]) / 2)
    assert not torch.allclose(plain[:6], predicted[:6], atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_classes_within_a_task_does_not_matter(name: str) -> None:
    record, more, _ = CASES[name]
    (first, labels), (second, new), (queries, _) = draw(0, 3), draw(1, 3), draw(2, 3)
    other, order = torch.tensor([2, 0, 1]), torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    options = record(**more)
    _, plain = learn(name, options, task(first, labels, first, first), task(second, new, second + 1, second))
    shuffled = second[order]
    _, swapped = learn(
        name, options, task(first, labels, first, first), task(shuffled, other[new][order], shuffled + 1, shuffled)
    )
    columns = torch.cat([torch.arange(3), 3 + other])
    torch.testing.assert_close(swapped.logits(queries)[:, columns], plain.logits(queries), atol=1e-3, rtol=1e-3)


def test_steps_of_a_quadratic_head_are_stored_and_read_again() -> None:
    stored: dict[str, Tensor] = {}
    heads: list[Head] = []
    for seed, classes in ((0, 2), (1, 3)):
        _, head = learn("class_gaussians", ClassOptions(rank=4), task(*draw(seed, classes)))
        stored, heads = append_step(stored, head), [*heads, head]
    queries, _ = draw(2, 3)
    for before, after in zip(heads, step_heads(stored), strict=True):
        assert torch.equal(before.logits(queries), after.logits(queries))
