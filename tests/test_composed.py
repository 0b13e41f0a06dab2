"""Kinds composed of others: `tuning: layernorm_ia3 | layernorm_lora`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.parameters import PLAIN, set_params
from harness.stage_order import run_stage
from harness.stage_repository import run_all
from harness.tiny import random_images
from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.runtime.code import digests, read_sources
from pipeline.store import artifacts
from pipeline.tuning.composed import compose
from pipeline.tuning.kind import Kind, find_kind, with_places

IMAGES = Images.of_pixels(random_images(6))
PAIRS = {"layernorm_ia3": "ia3", "layernorm_lora": "lora"}


def moved(kind: Kind, options: Record, placed: Backbone, seed: int = 1) -> Tuned:
    """Tensors as after some training."""
    random = torch.Generator().manual_seed(seed)
    start = kind.start(placed, options, {}, IMAGES, torch.Generator().manual_seed(0))
    return {name: tensor + 0.3 * torch.randn(tensor.shape, generator=random) for name, tensor in start.items()}


def pair(name: str, backbone: Backbone) -> tuple[Kind, Any, Backbone, Tuned]:
    """A composed kind, its options, the backbone with its places, and tensors of a task."""
    kind = find_kind(name)
    options = kind.options(**PLAIN[name])  # type: ignore[arg-type]
    placed = with_places(backbone, kind, options)
    return kind, options, placed, moved(kind, options, placed)


@pytest.mark.parametrize("name", PAIRS)
def test_the_model_is_that_of_one_member_on_that_of_the_other(name: str, backbone: Backbone) -> None:
    """The reference: a frozen backbone that has the tuned LayerNorms as its own, with the other member's tensors."""
    _, options, placed, tuned = pair(name, backbone)
    frozen = dict(backbone.model.named_parameters())
    norms = {place: tensor for place, tensor in tuned.items() if place in frozen}
    other = {place: tensor for place, tensor in tuned.items() if place not in frozen}
    assert norms
    assert other
    member = find_kind(PAIRS[name])
    alone = with_places(backbone, member, getattr(options, PAIRS[name]))
    inputs = backbone.prepare(random_images(5))
    expected = alone.forward(inputs, {**norms, **other})
    assert torch.equal(placed.forward(inputs, tuned), expected)
    assert not torch.allclose(expected, alone.forward(inputs, other), atol=1e-3)
    assert not torch.allclose(expected, backbone.forward(inputs, norms), atol=1e-3)


@pytest.mark.parametrize("name", PAIRS)
def test_folded_equals_unfolded(name: str, backbone: Backbone) -> None:
    _, _, placed, tuned = pair(name, backbone)
    inputs = backbone.prepare(random_images(5))
    folded, tensors = placed.at_inference(tuned)
    assert folded.model is backbone.model
    torch.testing.assert_close(folded.forward(inputs, tensors), placed.forward(inputs, tuned), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_each_member_has_its_own_mean(name: str, backbone: Backbone) -> None:
    kind, options, placed, _ = pair(name, backbone)
    of_tasks = [moved(kind, options, placed, seed) for seed in range(3)]
    bank = {place: torch.stack([tuned[place] for tuned in of_tasks]) for place in of_tasks[0]}
    assert kind.means
    means = kind.means(bank)
    of_other = find_kind(PAIRS[name]).means
    assert of_other
    expected: dict[str, Tensor] = dict(of_other({place: rows for place, rows in bank.items() if _is_new(place)}))
    for place, rows in bank.items():
        if not _is_new(place):
            expected[place] = torch.stack([rows[: step + 1].mean(0) for step in range(3)])
    assert means.keys() == expected.keys()
    for place, rows in expected.items():
        torch.testing.assert_close(means[place], rows)


def _is_new(place: str) -> bool:
    return place.rpartition(".")[2] in {"l_k", "l_v", "l_ff", "lora_a", "lora_b"}


def test_a_task_goes_on_from_the_one_before(backbone: Backbone) -> None:
    kind, options, placed, tuned = pair("layernorm_lora", backbone)
    assert kind.start(placed, options, tuned, IMAGES, torch.Generator()) == tuned


@pytest.mark.usefixtures("tiny_repository")
def test_one_task_tunes_both_and_one_model_serves_all() -> None:
    set_params(Path("params.yaml"), tuning="layernorm_ia3", selection="average", classifier="carried_gaussians")
    run_all(3)
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    counted = {name: _parameters(name) for name in ("layernorm", "ia3")}
    assert metrics["task_parameters"] == sum(counted.values())
    assert metrics["passes_at_inference"] == 1


def _parameters(tuning: str) -> int:
    set_params(Path("params.yaml"), tuning=tuning, **{tuning: PLAIN[tuning]})
    run_stage("method")
    run_stage("stage_one", "t1")
    return sum(tensor[0].numel() for tensor in artifacts.load_tensors(artifacts.bank_file("t1")).values())


def test_an_edit_of_a_member_reruns_stage_one() -> None:
    sources = read_sources()
    for name, member in PAIRS.items():
        before = digests("stage_one", sources, {"tuning": name})
        for part in (member, "layernorm"):
            edited = {
                file: source + b"#" * (file == Path(f"pipeline/tuning/kinds/{part}.py"))
                for file, source in sources.items()
            }
            assert digests("stage_one", edited, {"tuning": name}) != before
        other = {
            file: source + b"#" * (file == Path("pipeline/tuning/kinds/apt.py")) for file, source in sources.items()
        }
        assert digests("stage_one", other, {"tuning": name}) == before


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (lambda: {"ia3": find_kind("ia3"), "lora": find_kind("lora")}, "the only one with places"),
        (lambda: {"adapter": find_kind("adapter"), "lora": find_kind("lora")}, "the only one with places"),
        (lambda: {"layernorm": find_kind("layernorm"), "full": find_kind("full")}, "full cannot be composed: keeps"),
        (lambda: {"l2p": find_kind("l2p")}, "l2p cannot be composed: asks_frozen"),
    ],
)
def test_what_cannot_be_composed_is_refused(members: Callable[[], dict[str, Kind]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose("both", **members())


def test_what_has_no_fold_is_not_folded_and_the_smallest_start_counts() -> None:
    layernorm, adapter = find_kind("layernorm"), find_kind("adapter")
    both = compose("both", layernorm=layernorm, adapter=adapter)
    assert both.fold is None
    assert both.means_of_chain
    assert not both.scalable
    assert both.size == adapter.size
    assert compose("both", layernorm=layernorm, adapter=replace(adapter, means=None)).means is None
