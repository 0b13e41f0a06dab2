"""`average_scale`: the mean's distance from the pretrained values, and the kinds that can scale it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.parameters import PLAIN, set_params
from harness.stage_order import run_stage
from harness.stage_repository import prepare, refusal
from harness.tiny import random_images
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.manifest import read_manifest
from pipeline.inference.method import Method
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.tuning.bank import Bank
from pipeline.tuning.kind import find_kind

PARAMS = Path("params.yaml")
KINDS = ("layernorm", "ia3")
IMAGES = Images.of_pixels(random_images(6))


def models(tuning: str, scale: float, backbone: Backbone) -> tuple[Backbone, dict[str, Tensor], dict[str, Tensor]]:
    """The tuned backbone, what three tasks have tuned, and the models of the three steps."""
    kind = find_kind(tuning)
    options = kind.options(**PLAIN[tuning])  # type: ignore[arg-type]
    bank = Bank(tuning, kind, options, {})
    tuned, random = bank.place(backbone), torch.Generator().manual_seed(3)
    start = kind.start(tuned, options, {}, IMAGES, random)
    rows = {name: value + 0.3 * torch.randn(3, *value.shape, generator=random) for name, value in start.items()}
    method = Method(kind, SELECTIONS["average"], find_selector("key"), scale)
    return tuned, rows, dict(method.scaled_models(rows, tuned))


@pytest.mark.parametrize("tuning", KINDS)
def test_one_leaves_the_mean_bit_by_bit(tuning: str, backbone: Backbone) -> None:
    _, rows, got = models(tuning, 1.0, backbone)
    means = find_kind(tuning).means
    assert means is not None
    expected = means(rows)
    assert all(torch.equal(got[name], expected[name]) for name in rows)


@pytest.mark.parametrize("tuning", KINDS)
def test_zero_is_the_frozen_backbone(tuning: str, backbone: Backbone) -> None:
    tuned, _, got = models(tuning, 0.0, backbone)
    for step in range(3):
        features = tuned.encode(IMAGES, {name: rows[step] for name, rows in got.items()})
        assert torch.equal(features, backbone.encode(IMAGES, {}))


def test_three_quarters_of_the_way_from_the_pretrained_layernorms(backbone: Backbone) -> None:
    _, rows, got = models("layernorm", 0.75, backbone)
    for name, of_tasks in rows.items():
        pretrained = backbone.model.get_parameter(name).detach()
        for step in range(3):
            torch.testing.assert_close(got[name][step], 0.25 * pretrained + 0.75 * of_tasks[: step + 1].mean(0))


def test_three_quarters_of_the_way_from_factors_of_one(backbone: Backbone) -> None:
    _, rows, got = models("ia3", 0.75, backbone)
    for name, of_tasks in rows.items():
        torch.testing.assert_close(got[name][2], 0.25 + 0.75 * of_tasks.mean(0))


@pytest.mark.usefixtures("tiny_repository")
def test_stages_scale_the_mean_alone() -> None:
    prepare()
    run_stage("stage_one", "t1")
    found = {}
    for selection, scale in (("average", 1.0), ("average", 0.0), ("average", 0.75), ("latest", 0.0), ("latest", 1.0)):
        set_params(PARAMS, selection=selection, average_scale=scale)
        run_stage("features", "t1")
        found[selection, scale] = artifacts.load_tensors(artifacts.features_file("t1"))["own_features"]
    queries = artifacts.load_tensors(artifacts.train_queries_file("t1"))["queries"]
    torch.testing.assert_close(found["average", 0.0], queries)
    assert torch.equal(found["latest", 0.0], found["latest", 1.0])
    distances = [float((found["average", scale] - queries).norm()) for scale in (0.75, 1.0)]
    assert 0.5 * distances[1] < distances[0] < distances[1]


@pytest.mark.usefixtures("tiny_finished")
def test_the_learner_records_the_scale() -> None:
    set_params(PARAMS, average_scale=0.5)
    run_stage("evaluate")
    assert read_manifest().settings.average_scale == 0.5


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("tuning", "refused"),
    [("lora", True), ("apt", True), ("diff_pruning", True), ("adapter", True), ("layernorm", False), ("ia3", False)],
)
def test_only_plain_means_with_a_start_are_scaled(tuning: str, refused: bool) -> None:
    set_params(PARAMS, tuning=tuning, selection="average", average_scale=0.75)
    message = refusal(lambda: run_stage("method"))
    assert message == (
        f"params.yaml: the mean of what tuning: {tuning} tunes cannot be scaled, since it has no start: "
        "set average_scale: 1.0"
        if refused
        else ""
    )
