"""`selection: first_and_frozen`: the frozen output beside the tuned one, as statistics, costs and reports see it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.counting import Counted
from harness.parameters import set_params
from harness.stage_order import run_stages
from harness.stage_repository import frozen_flops, run_all
from pipeline.data.images import Images
from pipeline.inference.learner import load_learner
from pipeline.inference.manifest import read_manifest
from pipeline.linear import gaussians
from pipeline.linear.head import Head, joined
from pipeline.linear.steps import step_heads
from pipeline.store import artifacts
from pipeline.store.cumulative import part

BESIDE: dict[str, object] = {"selection": "first_and_frozen", "tuned_tasks": "first"}
DIM, TASKS, CLASSES = 16, 3, 2


def final(row: str) -> Head:
    return step_heads(part(artifacts.load_tensors(artifacts.heads_file("t3")), f"{row}.head."))[-1]


def discriminant(features: Tensor, labels: Tensor, vectors: int) -> Head:
    """Of all classes at once."""
    statistics = gaussians.add_classes(gaussians.no_gaussians(features.shape[1]), features, labels)
    return gaussians.linear_discriminant(statistics, gaussians.SHRINKAGE, vectors)


def all_features(name: str) -> tuple[Tensor, Tensor]:
    """The features of this name, and the labels, of the training images of all tasks."""
    names = [f"t{task + 1}" for task in range(TASKS)]
    features = [artifacts.load_tensors(artifacts.features_file(task))[name] for task in names]
    labels = [artifacts.load_tensors(artifacts.train_file(task))["labels"] for task in names]
    return torch.cat(features), torch.cat([of_task + CLASSES * task for task, of_task in enumerate(labels)])


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(("features", "vectors"), [("cls", 1), ("cls_2", 2), ("last_2", 4)])
def test_each_vector_of_both_outputs_has_its_own_variance_and_each_block_its_discriminant(
    features: str, vectors: int
) -> None:
    set_params(Path("params.yaml"), **BESIDE, features=features, classifier="ncm")
    run_all(TASKS)
    own, labels = all_features("own_features")
    assert own.shape[1] == 2 * vectors * DIM
    torch.testing.assert_close(final("tuned_lda").weight, discriminant(own, labels, 2 * vectors).weight)
    queries = own[:, : vectors * DIM]
    torch.testing.assert_close(final("frozen_lda").weight, discriminant(queries, labels, vectors).weight)
    assert f"| numbers that describe an image | {2 * vectors} x {DIM} |" in artifacts.REPORT.read_text()

    set_params(Path("params.yaml"), classifier="lda", **{"lda.per_block": True})
    run_stages(TASKS, {"stage_two"})
    blocks = 1 if features == "cls" else 2
    for row, inputs, parts in (("tuned", own, 2 * blocks), ("frozen", queries, blocks)):
        per_block = [discriminant(block, labels, vectors // blocks) for block in inputs.chunk(parts, 1)]
        torch.testing.assert_close(final(row).weight, joined(per_block).weight, msg=row)


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("tuning", ["layernorm", "l2p", "dualprompt", "coda_prompt"])
@pytest.mark.parametrize("selection", ["latest", "first", "first_and_frozen"])
def test_passes_are_those_that_run_with_the_ones_that_prompts_ask_for(
    tuning: str, selection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned_tasks = "all" if selection == "latest" else "first"
    set_params(Path("params.yaml"), tuning=tuning, selection=selection, tuned_tasks=tuned_tasks)
    run_all(TASKS)
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    of_tuned, alone = 1 if tuning == "layernorm" else 2, int(selection == "first_and_frozen")
    test = artifacts.load_tensors(artifacts.TEST)
    images = Images.from_tensors(test)[test["tasks"] < TASKS]
    learner = load_learner(read_manifest().settings, read_manifest().tasks)
    counted = Counted(monkeypatch)
    assert counted.of(lambda: learner.predict(images)) == metrics["passes_at_inference"] * len(images)
    assert metrics["passes_at_inference"] == alone + of_tuned
    again = (TASKS + 1) / 2 if selection == "latest" else 1  # an image runs again after each later task
    assert metrics["passes_per_image"] == pytest.approx(alone + of_tuned * again)
    frozen = frozen_flops() / 1e9
    passes = metrics["passes_at_inference"]
    assert passes * frozen <= metrics["gflop_at_inference"] + 1e-6 < 1.6 * passes * frozen  # it is rounded
    report = artifacts.REPORT.read_text()
    if passes in (1, 2):
        from_scratch = alone + of_tuned * (TASKS + 1) / 2
        assert f"| the same, if every step were evaluated from scratch | {from_scratch:.2f} |" in report
