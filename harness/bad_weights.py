"""Weight files that are broken, hostile, from another model, or merely odd, with a good data set."""

import io
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.bad_data import IMAGES, Changes, Write, write_classes
from pipeline.backbone.timm_vit import create_model

VIT = "test_vit.r160_in1k"  # timm's smallest


def _weights(folder: Path, change: Callable[[dict[str, Tensor]], object], *, suffix: str = "pth") -> Changes:
    write_classes(folder / IMAGES)
    good = create_model(VIT, num_classes=0).state_dict()
    changed: Any = change({name: tensor.clone() for name, tensor in good.items()})
    file = folder / f"weights.{suffix}"
    if isinstance(changed, bytes):
        file.write_bytes(changed)
    elif suffix == "safetensors":
        save_file(changed, file)
    else:
        torch.save(changed, file)
    return {"backbone": VIT, "backbone_weights": file.name}


def _with_value(value: float, state: dict[str, Tensor]) -> dict[str, Tensor]:
    state["blocks.0.mlp.fc1.weight"][3, 3] = value
    return state


def _each(convert: Callable[[Tensor], object], state: dict[str, Tensor]) -> dict[str, object]:
    return {name: convert(tensor) for name, tensor in state.items()}


def _saved(state: dict[str, Tensor], share: float) -> bytes:
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()[: int(share * content.tell())]


def _tied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"blocks.1.norm1.bias": state["blocks.0.norm1.bias"]}


class Code:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """The function to call, and its arguments."""
        return os.mkdir, ("pwned",)


WEIGHTS: dict[str, Write] = {
    "weights that are good": partial(_weights, change=dict, suffix="safetensors"),
    "weights that are tied": partial(_weights, change=_tied),
    "weights that are a pointer": partial(
        _weights, change=lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n"
    ),
    "weights with NaN": partial(_weights, change=partial(_with_value, float("nan"))),
    "weights with infinity": partial(_weights, change=partial(_with_value, float("inf")), suffix="safetensors"),
    "weights of absurd size": partial(_weights, change=partial(_each, lambda tensor: tensor * 1e30)),
    "weights of halves": partial(_weights, change=partial(_each, Tensor.half)),
    "weights of doubles": partial(_weights, change=partial(_each, Tensor.double)),
    "weights of eight bits": partial(_weights, change=partial(_each, lambda tensor: tensor.to(torch.float8_e4m3fn))),
    "weights of integers": partial(_weights, change=partial(_each, Tensor.int)),
    "weights that are complex": partial(_weights, change=partial(_each, lambda tensor: tensor.to(torch.complex64))),
    "weights that are sparse": partial(_weights, change=partial(_each, Tensor.to_sparse)),
    "weights without values": partial(_weights, change=partial(_each, lambda tensor: tensor.to("meta"))),
    "weights that are lists": partial(_weights, change=partial(_each, lambda tensor: [tensor.shape])),
    "weights of another model": partial(_weights, change=lambda _: torch.nn.Linear(3, 3).state_dict()),
    "weights of nothing": partial(_weights, change=lambda _: {}),
    "weights under numbers": partial(_weights, change=lambda state: dict(enumerate(state.values()))),
    "weights that are a list": partial(_weights, change=lambda state: list(state.values())),
    "weights with code": partial(_weights, change=lambda _: pickle.dumps(Code())),
    "weights with code inside": partial(_weights, change=lambda state: {**state, "head.weight": Code()}),
    "weights that are text": partial(_weights, change=lambda _: b"no weights"),
    "weights that are empty": partial(_weights, change=lambda _: b""),
    "weights cut": partial(_weights, change=partial(_saved, share=0.5)),
    "weights cut near the end": partial(_weights, change=partial(_saved, share=0.99)),
    "weights with a huge header": partial(_weights, change=lambda _: b"\xff" * 64, suffix="safetensors"),
    "weights with a wrong suffix": partial(_weights, change=partial(_saved, share=1.0), suffix="safetensors"),
    "weights of arrays": partial(_weights, change=lambda _: b"PK", suffix="npz"),
}
