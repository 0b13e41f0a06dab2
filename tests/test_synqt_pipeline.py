"""`tuning: synqt` in the pipeline: one pass of the frozen backbone gives the features of all tasks so far."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.counting import Counted
from harness.parameters import set_params
from harness.stage_order import in_order, run_stage
from harness.stage_repository import frozen_flops, refusal, run_all
from pipeline.backbone.build import build_backbone
from pipeline.data.images import Images
from pipeline.inference.branching import BranchingEncoder
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.manifest import Settings, read_manifest
from pipeline.inference.method import Method, make_encoder
from pipeline.linear.head import task_heads
from pipeline.progress import Progress
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.tuning.bank import load_bank
from stages import predict

TEST_IMAGES = 30  # five of each of six classes


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("selector", ["key", "lda", "entropy"])
def test_an_image_is_run_once_per_step_that_needs_a_new_feature(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(Path("params.yaml"), tuning="synqt", selector=selector)
    counted = Counted(monkeypatch)
    passes: dict[str, int] = {}
    for stage, *task in in_order(3):
        if stage != "download":
            passes[stage] = passes.get(stage, 0) + counted.of(lambda: run_stage(stage, *task))  # noqa: B023
    counts = artifacts.load_json(artifacts.IMAGE_COUNTS)
    training = sum(counts[task]["training"] for task in ("t1", "t2", "t3"))
    of_flops = 3  # in each stage of features, one pass of one image is counted
    table = FeatureTable.from_tensors(load_file(artifacts.features_file("t3")))
    own = load_file(artifacts.TEST)["tasks"][:TEST_IMAGES]
    if selector == "entropy":  # judging needs the outputs of all tasks
        needed = [int((own <= step).sum()) for step in range(3)]
    else:
        chosen = table.selected
        needed = [int(((own == step) | ((own < step) & (chosen[step] == step))).sum()) for step in range(3)]
    assert passes["features"] == training + sum(needed) + of_flops, "training images once each"
    assert not passes["stage_two"] + passes["rematch"] + passes["evaluate"] + passes["report"]
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert metrics["passes_per_image"] == pytest.approx(sum(needed) / TEST_IMAGES, abs=1e-6)
    assert metrics["passes_at_inference"] == 1
    frozen = frozen_flops()
    assert frozen < 1e9 * metrics["gflop_at_inference"] < 2 * frozen
    learner = predict.load_learner(read_manifest().settings)
    test = load_file(artifacts.TEST)
    images = Images.from_tensors(test)[test["tasks"] < 3]
    assert counted.of(lambda: learner.predict(images)) == TEST_IMAGES


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [{}, {"selector": "entropy"}, {"selection": "oracle"}, {"selection": "latest"}, {"synqt.form": "published"}],
)
def test_the_table_is_what_running_every_step_from_scratch_gives(changes: dict[str, object]) -> None:
    set_params(Path("params.yaml"), tuning="synqt", **changes)
    run_all(3)
    table = FeatureTable.from_tensors(load_file(artifacts.features_file("t3")))
    test = load_file(artifacts.TEST)
    own = test["tasks"][test["tasks"] < 3]
    images = Images.from_tensors(test)[test["tasks"] < 3]
    settings = read_manifest().settings
    assert table.selected.shape == (3, len(images))
    for step in range(3):
        known = own <= step
        assert (table.rows[step] >= 0).equal(known)
        if changes.get("selection") == "oracle":
            assert table.selected[step][known].equal(own[known])
            continue
        encoder = encoder_after(step, settings)
        features, tasks = encoder.encode(images[known])
        assert tasks.equal(table.selected[step][known])
        torch.testing.assert_close(table.after(step, known.nonzero().flatten()), features, atol=1e-5, rtol=1e-5)


def encoder_after(step: int, settings: Settings) -> BranchingEncoder:
    """The encoder as it was after a step, from that step's files."""
    task = f"t{step + 1}"
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(weights, config, image_size=16, normalize="pretrained", device=torch.device("cpu"))
    bank = load_bank(artifacts.bank_file(task), step + 1)
    method = Method(bank.kind, SELECTIONS[settings.selection], find_selector(settings.selector))
    state, heads = (load_file(file(task)) for file in (artifacts.selector_file, artifacts.auxiliary_heads_file))
    encoder = make_encoder(backbone, bank, method, state, heads=task_heads(heads), progress=Progress("test", 0))
    assert isinstance(encoder, BranchingEncoder)
    return encoder


@pytest.mark.usefixtures("tiny_repository")
def test_latest_carries_gaussians_in_one_pass() -> None:
    """Features before and after a task come from the same pass; before the first task they are the queries."""
    set_params(Path("params.yaml"), tuning="synqt", selection="latest", classifier="carried_gaussians")
    run_all(3)
    first, second = (artifacts.load_tensors(artifacts.features_file(task)) for task in ("t1", "t2"))
    queries = artifacts.load_tensors(artifacts.train_queries_file("t1"))["queries"]
    torch.testing.assert_close(first["previous_features"], queries, atol=1e-6, rtol=1e-6)
    assert second["previous_features"].shape == second["own_features"].shape
    assert not torch.allclose(second["previous_features"], second["own_features"], atol=1e-3)
    assert artifacts.load_json(artifacts.EVALUATION)["metrics"]["passes_at_inference"] == 1


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": "average"}, "the mean of what tuning: synqt tunes means nothing: set selection: query"),
        ({"synqt.queries": 0}, "synqt.queries: input should be greater than or equal to 1, found 0"),
        ({"synqt.form": "thin"}, "synqt.form: input should be 'slim' or 'published', found 'thin'"),
        ({"synqt.feature": "both"}, "synqt.feature: input should be 'added' or 'alone', found 'both'"),
    ],
)
def test_bad_options_are_one_line(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), tuning="synqt", **changes)
    assert message in refusal(lambda: run_stage("method"))


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {"correction": "rematch"},
        {"correction": "arc_retention"},
        {"classifier_views": 2, "flip": True},
        {"classifier_views": 2, "flip": True, "selection": "latest", "classifier": "carried_gaussians"},
    ],
)
def test_corrections_and_views_go_with_it(changes: dict[str, object]) -> None:
    set_params(Path("params.yaml"), tuning="synqt", **changes)
    run_all(3)
    test = load_file(artifacts.TEST)
    covered = test["tasks"] < 3
    _, logits = predict.load_learner(read_manifest().settings).predict(Images.from_tensors(test)[covered])
    accuracy = float((logits.argmax(1) == test["labels"][covered]).float().mean())
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert accuracy == pytest.approx(metrics["average_accuracy"], abs=1e-6)
