"""Two processes on a CPU stand for two devices: the same features, and the same LayerNorms up to rounding."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import run_stage
from harness.stage_repository import prepare, refusal
from harness.tiny import TINY_CONFIG, pretrained_layernorms, random_images, tiny_weights
from pipeline.backbone.build import build_backbone
from pipeline.backbone.vit import INFERENCE_BATCH, Backbone
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.inference.choosing import ChoosingEncoder
from pipeline.machine import devices
from pipeline.machine.devices import on_all_devices
from pipeline.params import read_mapping
from pipeline.progress import Progress
from pipeline.store import artifacts
from pipeline.tuning import loop
from pipeline.tuning.kind import find_kind, parts_of, with_places
from pipeline.tuning.kinds import layerwise, lora
from pipeline.tuning.loop import Schedule

COUNTS = (2 * INFERENCE_BATCH + 100, 50, 0)  # of three batches, the last one short; of one batch; of none
ROUNDING = 1e-5
# The CLS token that enters the first norm is that of every image, and so is its key from the start: where there is
# nothing to learn, Adam makes whole steps of what is rounded.
CONSTANT = "blocks.0.norm1.key"
KINDS = ["apt", "diff_pruning", "l2p", "synqt"]
CHANGED = {"diff_pruning": {"on": "layernorms", "share": 0.5}}  # biases of keys have nothing to learn, either


def tuned(
    backbone: Backbone,
    start: dict[str, torch.Tensor],
    *,
    penalty: Callable[[nn.Module], torch.Tensor] | None = None,
    draw: Callable[[torch.Generator], dict[str, torch.Tensor]] = lambda _: {},
) -> dict[str, torch.Tensor]:
    learned, head = loop.tune(
        backbone,
        start=start,
        images=Images.of_pixels(random_images(21)),  # batches of 5, 5, 5, 5 and 1
        labels=torch.arange(21) % 4,
        schedule=Schedule(batch_size=5, lr=0.002, epochs=2, min_crop=0.3, flip=True),
        generator=torch.Generator().manual_seed(5),
        progress=Progress("tuning", 0),
        penalty=penalty,
        draw=draw,
    )
    return learned | {"head.weight": head.weight, "head.bias": head.bias}


def lora_names(beside: Backbone) -> list[str]:
    return [name for name, _ in beside.model.named_parameters() if "lora" in name]


def compute(folder: str) -> None:
    """Compute with a model in every way that a stage does."""
    torch.set_num_threads(1)
    backbone = build_backbone(
        tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=torch.device("cpu")
    )
    start = pretrained_layernorms(backbone)
    options = layerwise.Options(norms="all", parameters="both", attention=False, detach=False)
    norms = with_places(backbone, layerwise.KIND, options)
    rows = {name: tensor[None] for name, tensor in start.items()}
    keys = layerwise.initial_keys(norms, Images.of_pixels(random_images(30)), start)
    rows |= {name: key[None] for name, key in keys.items()}
    beside = with_places(backbone, lora.KIND, lora.Options(rank=2, alpha=2.0, mlp=True))
    thin = {name: torch.full_like(tensor, 0.1) for name, tensor in beside.pretrained(lora_names(beside)).items()}
    features = {}
    for count in COUNTS:
        images = Images.of_pixels(random_images(count, size=16))
        features[f"{count} features"] = backbone.encode(images, start)
        features[f"{count} lora"] = beside.encode(images, thin)
        chosen = ChoosingEncoder(norms, rows, layerwise.KIND, Progress("test", 0)).encode(images)
        features |= {f"{count} layerwise {index}": tensor for index, tensor in enumerate(chosen)}
    artifacts.save_tensors(Path(folder, "features.safetensors"), features)
    artifacts.save_tensors(Path(folder, "tuned.safetensors"), tuned(backbone, start))
    artifacts.save_tensors(Path(folder, "layerwise.safetensors"), tuned(norms, rows, penalty=layerwise.penalty))


def compute_and_fail(folder: str) -> None:
    compute(folder)
    devices.wait()
    raise UserError("lower lr")


def test_two_devices_compute_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    compute(str(tmp_path / "one"))
    alone = capfd.readouterr().out
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("DEVICES", "2")
    with pytest.raises(UserError, match="lower lr"):
        on_all_devices(compute_and_fail)(str(tmp_path / "two"))
    assert capfd.readouterr().out.count("epoch 2/2") == alone.count("epoch 2/2"), "one of them prints"
    assert (tmp_path / "one/features.safetensors").read_bytes() == (tmp_path / "two/features.safetensors").read_bytes()
    for name in ("tuned.safetensors", "layerwise.safetensors"):
        one, two = (artifacts.load_tensors(tmp_path / which / name) for which in ("one", "two"))
        assert max(float((one[key] - two[key]).abs().max()) for key in one if key != CONSTANT) < ROUNDING


def compute_kinds(folder: str) -> None:
    """What kinds of small numbers learn of a task."""
    torch.set_num_threads(1)
    backbone = build_backbone(
        tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=torch.device("cpu")
    )
    for name in KINDS:
        kind = find_kind(name)
        options = kind.options(**read_mapping(ROOT / "params.yaml")[name] | CHANGED.get(name, {}))
        for number, part in enumerate(parts_of(kind)):
            placed = with_places(backbone, part, options)
            images = Images.of_pixels(random_images(4))
            start = part.start(placed, options, {}, images, torch.Generator().manual_seed(1))
            learned = tuned(placed, start, penalty=part.penalty, draw=part.draw)
            artifacts.save_tensors(Path(folder, f"{name} {number}"), learned)


def test_two_devices_learn_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_kinds(str(tmp_path / "one"))
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("DEVICES", "2")
    on_all_devices(compute_kinds)(str(tmp_path / "two"))
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["apt 0", "diff_pruning 0", "diff_pruning 1", "l2p 0", "synqt 0"]
    for name in names:
        one, two = (artifacts.load_tensors(tmp_path / which / name) for which in ("one", "two"))
        assert one.keys() == two.keys()
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < ROUNDING, name


@pytest.mark.parametrize(
    ("tuning", "command"),
    [
        pytest.param("lora", ["-m", "stages.stage_one"], marks=pytest.mark.slow),  # which draws what it starts from
        pytest.param("ia3", ["-m", "stages.stage_one"], marks=pytest.mark.slow),
        ("layernorm", ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "stages.stage_one"]),
    ],
)
@pytest.mark.usefixtures("tiny_repository")
def test_a_stage_on_two_devices(tuning: str, command: list[str]) -> None:
    set_params(Path("params.yaml"), tuning=tuning)
    prepare()
    run_stage("stage_one", "t1")
    alone = artifacts.load_tensors(artifacts.bank_file("t1"))
    artifacts.bank_file("t1").unlink()
    asked = {"DEVICE": "cpu", "PYTHONPATH": str(ROOT)} | ({"DEVICES": "2"} if "torch" not in command[1] else {})
    done = subprocess.run(
        [sys.executable, *command, "t1"], env=os.environ | asked, check=True, capture_output=True, text=True
    )
    assert done.stdout.count("epoch 2/2") == 1
    together = artifacts.load_tensors(artifacts.bank_file("t1"))
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < ROUNDING
    assert not list(Path(".scratch/resume").glob("*")), "the state of a training that has ended"


@given(st.integers(0, 2000), st.integers(1, 300), st.integers(1, 9))
def test_the_parts_of_images_are_whole_batches_and_make_up_all(count: int, batch: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "size", lambda: size)
        rows = list(range(count))
        parts = []
        weights = 0.0
        for number in range(size):
            patch.setattr(devices, "rank", lambda number=number: number)
            part = devices.part_of_images(count, batch)
            parts += rows[part]
            assert part.start % batch == 0 or part.start == count
            weights += devices.part_of_batch(max(count, 1))[1]
        assert parts == rows
        assert weights == pytest.approx(1)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DEVICES": "many"}, "DEVICES='many' is not a number of devices"),
        ({"DEVICES": "0"}, "DEVICES='0' is not a number of devices"),
        ({"DEVICES": "2", "DEVICE": "cuda:1"}, "unset DEVICE; CUDA_VISIBLE_DEVICES chooses"),
        ({"DEVICES": "999"}, "GPUs: set DEVICES=1"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert words in refusal(lambda: on_all_devices(compute_and_fail)(""))
