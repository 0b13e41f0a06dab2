"""Loops never wait for a GPU: here they run on a device whose tensors have no values that one could wait for."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.tiny import TINY_CONFIG, random_images, tiny_weights
from pipeline.backbone.build import build_backbone
from pipeline.backbone.vit import Backbone
from pipeline.data import augment
from pipeline.data.images import Images
from pipeline.inference.features import encode_inputs
from pipeline.machine.device import fetch
from pipeline.progress import Progress
from pipeline.tuning.kind import with_places
from pipeline.tuning.kinds import layerwise
from pipeline.tuning.loop import Schedule, tune

META = torch.device("meta")  # whoever asks for a value of its tensors gets an error
SCHEDULE = Schedule(batch_size=8, lr=0.02, epochs=1, min_crop=0.3, flip=True)


class Copies(TorchDispatchMode):
    """Finds copies to the device that bypass `send` and so make the program wait."""

    def __init__(self) -> None:
        """Nothing is found yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.waited_for: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Note it, and go on."""
        result = func(*args, **(kwargs or {}))
        sent = [a for a in args if isinstance(a, Tensor) and a.device.type == "cpu" and a.ndim]
        if sent and isinstance(result, Tensor) and result.is_meta:
            frames = inspect.stack()
            if not any(frame.function == "send" for frame in frames):
                own = [f"{frame.filename}:{frame.lineno}" for frame in frames if "/pipeline/" in frame.filename]
                self.waited_for.append(f"{func} in {own[:1]}")
        return result


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The tiny ViT on that device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    return build_backbone(tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=META)


def steps(backbone: Backbone, start: dict[str, Tensor], **options: Any) -> list[str]:  # noqa: ANN401
    """Waiting copies in three steps of stage one."""
    copies = Copies()

    def one_epoch(*_: object) -> Iterator[int]:
        with copies:
            yield 0

    with contextlib.suppress(NotImplementedError), pytest.MonkeyPatch.context() as patch:  # at the end: to the CPU
        patch.setattr(Progress, "end_epoch", lambda *_, **__: None)  # it fetches the loss, once an epoch
        tune(
            backbone,
            start=start,
            images=Images.of_pixels(random_images(20)),
            labels=torch.arange(20) % 4,
            schedule=SCHEDULE,
            generator=torch.Generator().manual_seed(0),
            progress=Progress("", 0),
            epochs=one_epoch,
            **options,
        )
    return copies.waited_for


def start_of(backbone: Backbone) -> dict[str, Tensor]:
    weights = tiny_weights()
    return {name: weights[name] for name, _ in backbone.model.named_parameters() if "norm" in name}


def test_a_step_of_stage_one(without_values: Backbone) -> None:
    assert steps(without_values, start_of(without_values)) == []


def test_a_step_of_the_single_pass_variant(without_values: Backbone) -> None:
    rows = {name: tensor[None] for name, tensor in start_of(without_values).items()}
    options = layerwise.Options(norms="all", parameters="both", attention=False, detach=False)
    backbone = with_places(without_values, layerwise.KIND, options)
    keys = {f"{name.rpartition('.')[0]}.key": torch.ones_like(tensor) for name, tensor in rows.items()}
    assert steps(backbone, rows | keys, penalty=layerwise.penalty) == []


def test_features_of_many_batches(without_values: Backbone) -> None:
    with Copies() as copies:
        outputs = list(without_values.outputs(Images.of_pixels(random_images(600)), start_of(without_values)))
    assert [len(output) for output in outputs] == [256, 256, 88]
    assert copies.waited_for == []


def test_views_under_selected_layernorms(without_values: Backbone) -> None:
    bank = {name: torch.stack([tensor, tensor]) for name, tensor in start_of(without_values).items()}
    inputs = torch.empty(5, 3, 16, 16, device=META)
    with Copies() as copies, pytest.raises(NotImplementedError, match="out of meta"):  # fetched once, at the end
        encode_inputs(without_values, inputs, torch.tensor([0, 1, 0, 0, 1]), bank)
    assert copies.waited_for == []


def test_a_copy_that_is_waited_for_is_found(without_values: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "send", lambda tensor, device: tensor.to(device))
    found = steps(without_values, start_of(without_values))
    assert len(found) == 2 * 3  # crops and flips of each step
    assert "augment.py" in found[0]


def test_values_are_fetched_whole_and_in_order() -> None:
    assert [float(tensor) for tensor in fetch(torch.tensor(number) for number in range(3))] == [0, 1, 2]
    assert fetch([]) == []
