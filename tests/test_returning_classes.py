"""Classes that come again in a later task: statistics merge, and rows know their class and task."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from harness.parameters import set_params
from harness.stage_repository import run_all
from pipeline.classification.classifier import State, TaskFeatures, Training, find_classifier
from pipeline.classification.classifiers import cls
from pipeline.linear import gaussians, ridge
from pipeline.linear.head import Head, random_features
from pipeline.linear.steps import append_step, step_heads
from pipeline.progress import Progress
from pipeline.store import artifacts

MIXED = [["class 0", "class 1"], ["class 1", "class 2"], ["class 0", "class 3"]]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classifier": "ridge"},
        {"classifier": "cls"},
        {"classifier": "fecam"},
        {"classifier": "ranpac"},
        {"classifier": "slca"},
        {"setting": "task"},
    ],
)
def test_classes_come_again(changes: dict[str, object]) -> None:
    set_params(Path("params.yaml"), task_classes=MIXED, **changes)
    run_all(3)
    counts = artifacts.load_json(artifacts.IMAGE_COUNTS)
    assert [count["training"] for count in counts.values()] == [10, 15, 15]
    train = [load_file(artifacts.train_file(f"t{t}")) for t in (1, 2, 3)]
    assert [file["classes"].unique().tolist() for file in train] == [[0, 1], [1, 2], [0, 3]]
    assert [file["labels"].unique().tolist() for file in train] == [[0, 1]] * 3
    heads = load_file(artifacts.heads_file("t3"))
    assert heads["frozen_lda.state.counts"].tolist() == [10, 10, 10, 10]
    queries = torch.cat([load_file(artifacts.train_queries_file(f"t{t}"))["queries"] for t in (1, 2, 3)])
    labels = torch.cat([file["classes"] for file in train])
    at_once = gaussians.add_classes(gaussians.no_gaussians(queries.shape[1]), queries, labels)
    torch.testing.assert_close(heads["frozen_lda.state.means"], at_once.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(heads["frozen_lda.state.scatter"], at_once.scatter, rtol=1e-10, atol=1e-10)
    assert "4 classes arrive in 3 tasks" in " ".join(artifacts.REPORT.read_text().split())


PARTS = [torch.tensor(classes) for classes in ([0, 1, 2], [1, 3], [0, 2, 3, 4])]


def stream(seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Features, labels from 0 within the task, and numbers of the classes, of three tasks."""
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for classes in PARTS:
        labels = torch.cat([torch.arange(len(classes)), torch.randint(len(classes), (20,), generator=generator)])
        centres = torch.randn(5, 6, generator=generator)
        tasks.append((centres[classes[labels]] + torch.randn(len(labels), 6, generator=generator), labels, classes))
    return tasks


def merged(name: str, seed: int) -> tuple[State, State]:
    """The state of a classifier task by task, and of all images at once."""
    tasks, learn = stream(seed), find_classifier(name).learn

    def training() -> Training:
        return Training(64, 0.005, 2, None, torch.Generator().manual_seed(7), Progress("test", 0))

    state: State = {}
    for task, (features, labels, classes) in enumerate(tasks):
        given_now = TaskFeatures(features[None], features, features, labels, classes, task)
        state, head = learn(state, given_now, training())
    features = torch.cat([features for features, _, _ in tasks])
    labels = torch.cat([classes[labels] for _, labels, classes in tasks])
    at_once, other = learn({}, TaskFeatures(features[None], features, features, labels), training())
    torch.testing.assert_close(head.logits(features), other.logits(features), rtol=1e-4, atol=1e-4)
    return state, at_once


@pytest.mark.parametrize("name", ["ncm", "lda", "ridge", "ridge_projected", "fecam"])
@settings(max_examples=5)
@given(seed=st.integers(0, 99))
def test_closed_forms_merge_to_what_all_images_at_once_would_give(name: str, seed: int) -> None:
    state, at_once = merged(name, seed)
    assert state.keys() == at_once.keys()
    for field, tensor in state.items():
        tolerance = 1e-10 if tensor.dtype == torch.float64 and name != "ridge_projected" else 1e-4
        torch.testing.assert_close(tensor, at_once[field], rtol=tolerance, atol=tolerance)


def test_ranpac_s_sums_merge_and_have_one_column_for_each_class() -> None:
    state: State = {}
    for features, labels, classes in stream(3):
        given_now = TaskFeatures(features[None], features, features, labels, classes)
        training = Training(64, 0.005, 2, None, torch.Generator().manual_seed(7), Progress("test", 0))
        state, head = find_classifier("ranpac").learn(state, given_now, training)
    inputs = torch.cat([random_features(features, state["projection"]) for features, _, _ in stream(3)]).double()
    one_hot = torch.nn.functional.one_hot(torch.cat([classes[labels] for _, labels, classes in stream(3)])).double()
    torch.testing.assert_close(state["gram"], inputs.T @ inputs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state["targets"], inputs.T @ one_hot, rtol=1e-10, atol=1e-10)
    assert len(head.weight) == 5


def test_a_class_that_comes_again_has_one_column_and_counts_in_the_closed_form_of_cls() -> None:
    state: dict[str, Tensor] = {}
    for features, labels, classes in stream(3):
        state = cls.add_task(state, features, labels, classes)
        assert state["weights"].shape[1] == 1 + max(int(c.max()) for c in PARTS if int(c.max()) <= int(classes.max()))
    sums = ridge.no_ridge(6)
    for features, labels, classes in stream(3):
        sums = ridge.add_task(sums, features, labels, classes)
    assert sums.targets.shape[1] == 5


def test_the_best_row_of_a_class_is_its_score_and_steps_keep_what_rows_are_of() -> None:
    head = Head(torch.tensor([[1.0], [2.0], [3.0], [-1.0]]), torch.zeros(4), None, torch.tensor([0, 1, 0, 1]))
    head = head._replace(tasks=torch.tensor([0, 0, 1, 1]))
    assert head.scores(torch.ones(1, 1)).tolist() == [[3, 2]]
    assert head.scores(torch.ones(1, 1), torch.tensor([[True, True, False, False]])).tolist() == [[1, 2]]
    stored = append_step(append_step({}, head.rows(0, 2)), head)
    assert stored["weight"].shape == (4, 1)
    first, second = step_heads(stored)
    assert first.classes is not None
    assert second.tasks is not None
    assert (first.classes.tolist(), second.tasks.tolist()) == ([0, 1], [0, 0, 1, 1])
