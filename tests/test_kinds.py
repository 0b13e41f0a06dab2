"""The promises of every kind in pipeline/tuning/kinds. A new file there is tested automatically."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.parameters import PLAIN, set_params
from harness.root import ROOT
from harness.stage_repository import run_all
from harness.tiny import random_images
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.manifest import read_manifest
from pipeline.params import Record, read_mapping
from pipeline.parts import names
from pipeline.progress import Progress
from pipeline.store import artifacts
from pipeline.tuning import loop
from pipeline.tuning.bank import Bank, load_bank, save_bank
from pipeline.tuning.kind import Kind, find_kind, with_places
from stages import predict

KINDS = names("tuning")
IMAGES = Images.of_pixels(random_images(12))
LABELS = torch.arange(12) % 3
SCHEDULE = loop.Schedule(batch_size=4, lr=0.01, epochs=2, min_crop=1.0, flip=False)


def kind_of(name: str) -> tuple[Kind, Record]:
    """The kind, with its default options in params.yaml."""
    kind = find_kind(name)
    small: Any = PLAIN.get(name, {})  # for a model of two blocks
    return kind, kind.options(**{**read_mapping(ROOT / "params.yaml")[name], **small})


def as_seen(kind: Kind, tuned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A task's tensors as the model expects them: as rows if it sees the tensors of all tasks."""
    return {name: tensor[None] if kind.chosen else tensor for name, tensor in tuned.items()}


@pytest.mark.parametrize(
    "name", [name for name in KINDS if not find_kind(name).asks_frozen]
)  # prompts are seen at once
def test_with_the_start_values_the_model_is_the_pretrained_one_bit_for_bit(name: str, backbone: Backbone) -> None:
    kind, options = kind_of(name)
    placed = with_places(backbone, kind, options)
    start = kind.start(placed, options, {}, IMAGES, torch.Generator().manual_seed(0))
    inputs = backbone.prepare(random_images(5))
    expected = backbone.model(inputs)
    assert torch.equal(placed.forward(inputs, as_seen(kind, start)), expected)
    assert torch.equal(backbone.model(inputs), expected), "the given backbone is left alone"


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_what_is_tuned_and_nothing_else(name: str, backbone: Backbone) -> None:
    kind, options = kind_of(name)
    placed = with_places(backbone, kind, options)
    before = {key: tensor.clone() for key, tensor in placed.model.state_dict().items()}
    start = as_seen(kind, kind.start(placed, options, {}, IMAGES, torch.Generator().manual_seed(0)))
    learned, head = loop.tune(
        placed,
        start=start,
        images=IMAGES,
        labels=LABELS,
        schedule=SCHEDULE,
        generator=torch.Generator().manual_seed(0),
        progress=Progress("test", 0),
        penalty=kind.penalty,
    )
    assert learned.keys() == start.keys()
    trained = {key for key, tensor in start.items() if tensor.is_floating_point()}
    assert all(torch.equal(learned[key], start[key]) != (key in trained) for key in start)
    assert all(tensor.isfinite().all() for tensor in (*learned.values(), *head[:2]))
    assert all(torch.equal(tensor, before[key]) for key, tensor in placed.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in placed.model.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_a_bank_describes_itself(name: str, backbone: Backbone, tmp_path: Path) -> None:
    kind, options = kind_of(name)
    start = kind.start(with_places(backbone, kind, options), options, {}, IMAGES, torch.Generator().manual_seed(0))
    rows = {
        key: torch.stack([tensor, tensor + 1][-1 if kind.keeps == "newest" else 0 :]) for key, tensor in start.items()
    }
    save_bank(tmp_path / "bank", Bank(name, kind, options, rows))
    loaded = load_bank(tmp_path / "bank", num_tasks=2)
    assert (loaded.tuning, loaded.kind, loaded.options) == (name, kind, options)
    assert loaded.tensors.keys() == rows.keys()
    assert all(len(loaded.tensors[key]) == 2 and torch.equal(loaded.tensors[key][-1], rows[key][-1]) for key in rows)


@pytest.mark.parametrize("name", KINDS)
def test_operations_of_a_pass_are_counted(name: str, backbone: Backbone) -> None:
    kind, options = kind_of(name)
    placed = with_places(backbone, kind, options)
    tuned = as_seen(kind, kind.start(placed, options, {}, IMAGES, torch.Generator().manual_seed(0)))
    assert placed.flops(tuned) >= backbone.flops({}) > 0


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("name", KINDS)
def test_old_rows_never_change_and_predict_equals_evaluate(name: str) -> None:
    keeps = find_kind(name).keeps
    set_params(Path("params.yaml"), tuning=name, selection="latest" if keeps == "newest" else "query", lr=0.001)
    run_all(3)
    banks = [load_file(artifacts.bank_file(task)) for task in ("t1", "t2", "t3")]
    for before, after in itertools.pairwise(banks):
        assert before.keys() == after.keys()
        if keeps == "each":
            assert all(torch.equal(after[key][: len(rows)], rows) for key, rows in before.items())
    learner = predict.load_learner(read_manifest().settings)
    test = load_file(artifacts.TEST)
    covered = test["tasks"] < 3
    _, logits = learner.predict(Images.from_tensors(test)[covered])
    accuracy = (logits.argmax(1) == test["labels"][covered]).float().mean()
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert float(accuracy) == pytest.approx(metrics["average_accuracy"], abs=1e-6)
    assert metrics["gflop_at_inference"] > 0
