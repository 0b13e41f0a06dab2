"""Stage two: a plain softmax regression on one task's rows; the nearest-class-mean baseline."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.classifier import HeadSchedule, find_classifier, nearest_mean_head, train_softmax
from pipeline.errors import UserError
from pipeline.evaluation import step_heads
from pipeline.head import Head
from pipeline.progress import Progress

SCHEDULE = HeadSchedule(batch_size=16, lr=0.05, epochs=20)
CENTRES = 3 * torch.eye(4, 8)
LABELS = torch.arange(80) % 4
FEATURES = CENTRES[LABELS] + torch.randn(80, 8, generator=torch.Generator().manual_seed(0))


def train(views: torch.Tensor = FEATURES[None], start: Head | None = None) -> Head:
    return train_softmax(
        views,
        LABELS,
        start=start,
        schedule=SCHEDULE,
        generator=torch.Generator().manual_seed(0),
        progress=Progress("test", 0),
    )


def test_equals_a_plain_linear_layer_trained_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(8, 4)
    nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.Adam(layer.parameters(), lr=SCHEDULE.lr)
    for _ in range(SCHEDULE.epochs):
        for rows in torch.randperm(80, generator=generator).split(SCHEDULE.batch_size):
            optimiser.zero_grad()
            functional.cross_entropy(layer(FEATURES[rows]), LABELS[rows]).backward()
            optimiser.step()
    head = train()
    assert torch.equal(head.weight, layer.weight)
    assert torch.equal(head.bias, layer.bias)


def test_learns_separable_classes_and_leaves_its_input_alone() -> None:
    before = FEATURES.clone()
    head = train()
    assert (head.logits(FEATURES).argmax(1) == LABELS).float().mean() > 0.95
    assert torch.equal(FEATURES, before)
    assert not head.weight.requires_grad


def test_divergence_and_unknown_names_are_one_line() -> None:
    with pytest.raises(UserError, match="lower classifier_lr"):
        train(FEATURES[None] * torch.inf)
    with pytest.raises(UserError, match="classifier 'svm' is unknown: choose one of softmax"):
        find_classifier("svm")


def test_nearest_mean_head_names_the_class_of_the_most_similar_mean() -> None:
    head = nearest_mean_head(FEATURES, LABELS)
    queries = functional.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(3)), dim=1)
    for query, predicted in zip(queries, head.logits(queries).argmax(1), strict=True):
        similarity = [
            functional.cosine_similarity(query, functional.normalize(FEATURES[c == LABELS], dim=1).mean(0), dim=0)
            for c in range(4)
        ]
        assert int(predicted) == max(range(4), key=lambda c: float(similarity[c]))


def test_rows_of_earlier_steps_ignore_classes_to_come() -> None:
    head = train()
    first, second = step_heads(head, [2, 4], "sequential")
    torch.testing.assert_close(first.logits(FEATURES), head.logits(FEATURES)[:, :2])
    assert torch.equal(second.weight, head.weight)


def test_joint_training_leaves_a_whole_head_a_step() -> None:
    rows = Head(torch.arange(6.0)[:, None], torch.zeros(6))
    first, second = step_heads(rows, [2, 4], "joint")
    assert first.weight.flatten().tolist() == [0, 1]
    assert second.weight.flatten().tolist() == [2, 3, 4, 5]


def test_each_epoch_sees_the_next_view_and_a_given_start_is_kept() -> None:
    copies = FEATURES.expand(3, -1, -1)
    assert torch.equal(train(copies).weight, train().weight)
    assert not torch.equal(train(torch.stack([FEATURES, FEATURES + 1])).weight, train().weight)
    start = Head(CENTRES.clone(), torch.zeros(4))
    assert not torch.equal(train(start=start).weight, train().weight)
    assert torch.equal(start.weight, CENTRES)
