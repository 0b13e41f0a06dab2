"""`order: joint`: each step is a model of its own, and its head stays what it was when it was learned."""

from pathlib import Path

import pytest
import torch

from harness.parameters import set_params
from harness.stage_order import run_stage, run_stages
from harness.stage_repository import run_all
from pipeline.classification.classifier import TaskFeatures, Training, find_classifier
from pipeline.linear.head import Head
from pipeline.linear.steps import step_heads
from pipeline.parts import names
from pipeline.progress import Progress
from pipeline.store import artifacts
from pipeline.store.cumulative import part

JOINT: dict[str, object] = {"order": "joint", "selection": "latest"}
TASKS = ("t1", "t2", "t3")


def heads_of(task: str, row: str) -> list[Head]:
    """The heads of all steps, as they are stored after this task."""
    heads = artifacts.load_tensors(artifacts.heads_file(task))
    return step_heads(part(heads, f"{row}.head."), heads.get(f"{row}.projection"))


def matrix(row: str = "c_ln") -> list[list[float]]:
    found: list[list[float]] = artifacts.load_json(artifacts.EVALUATION)["matrices"][row]
    return found


@pytest.mark.usefixtures("tiny_repository")
def test_a_step_s_head_is_at_the_end_what_it_was_then() -> None:
    """For every classifier, those with random units among them: one layer is stored for the heads of all steps."""
    set_params(Path("params.yaml"), **JOINT)
    run_all(3)
    inputs = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    for classifier in names("classifier"):
        set_params(Path("params.yaml"), classifier=classifier)
        run_stages(3, {"stage_two"})
        for row in ("tuned", "frozen"):
            for step, head in enumerate(heads_of("t3", row)):
                then = heads_of(TASKS[step], row)[-1].logits(inputs)
                torch.testing.assert_close(head.logits(inputs), then, msg=f"{classifier}, {row}, step {step}")


@pytest.mark.parametrize("name", names("classifier"))
def test_a_classifier_says_whether_it_draws_a_layer(name: str) -> None:
    own = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    task = TaskFeatures(own[None], own, own, torch.arange(20) % 2)
    training = Training(8, 0.01, 1, None, torch.Generator().manual_seed(0), Progress("test", 0))
    _, head = find_classifier(name).learn({}, task, training)
    assert find_classifier(name).draws_layer == (head.projection is not None)


@pytest.mark.usefixtures("tiny_repository")
def test_the_numbers_of_a_step_are_those_of_a_run_that_ends_with_it() -> None:
    set_params(Path("params.yaml"), **JOINT, classifier="ranpac")
    run_all(3)
    whole = matrix()
    for tasks in (1, 2):
        set_params(Path("params.yaml"), num_tasks=tasks)
        for stage in ("rematch", "evaluate"):
            run_stage(stage)
        assert matrix()[-1] == whole[tasks - 1]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes", [{}, {"classifier": "slca"}, {"training": "single_stage"}, {"classifier": "lda"}], ids=str
)
def test_a_given_task_leaves_the_same_scores_among_fewer_classes(changes: dict[str, object]) -> None:
    """So no cell of the matrix gets worse, and what is right among all classes stays right."""
    set_params(Path("params.yaml"), **JOINT, **changes)
    run_all(3)
    before = {row: matrix(row) for row in ("c_ln", "single_stage", "frozen")}
    set_params(Path("params.yaml"), setting="task")
    for stage in ("method", "evaluate"):
        run_stage(stage)
    for row, cells in before.items():
        for then, now in zip(cells, matrix(row), strict=True):
            assert all(new >= old for new, old in zip(now, then, strict=True)), row
