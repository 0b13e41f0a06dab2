"""Reads the weight files that people have: safetensors, torch.save checkpoints, JAX archives, hub snapshot folders.

The content of a file decides what it is, not its ending. Only tensors are read; code is never run.
"""

import argparse
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.data import git_lfs
from pipeline.errors import UserError, is_refusal

Kind = Literal["safetensors", "torch", "npz"]

# Files in a snapshot's folder, the preferred one first. timm looks for the same names.
_SNAPSHOT = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz")
_EXPORT = "export it as safetensors"

# First bytes of files that people download or export by mistake.
_OTHERS = {
    b"<!doctype": "is a web page: download the file itself",
    b"<html": "is a web page: download the file itself",
    b"\x89HDF": "is an HDF5 file, as Keras writes: choose PyTorch weights",
    b"GGUF": "is a GGUF file, as for llama.cpp: choose PyTorch weights",
    b"\x1f\x8b": "is compressed: unpack it (gunzip, tar)",
    b"\xfd7zXZ": "is compressed: unpack it (xz)",
}


@dataclass(frozen=True)
class Snapshot:
    """Weight files that belong together, and the content of their config.json."""

    files: list[Path]
    config: Mapping[str, Any] = field(default_factory=dict)


def find(path: Path) -> Snapshot:
    """The weights at a path: a file, or the folder of a hub snapshot. Raises UserError if there are none."""
    if not path.exists():
        raise UserError(f"params.yaml: backbone_weights {path} does not exist")
    if not path.is_dir():
        return Snapshot([path])
    inside = sorted(path.glob("snapshots/*/"))
    if len(inside) == 1:  # the hub's cache has one folder per revision
        return find(inside[0])
    config = _json(path / "config.json") if (path / "config.json").exists() else {}
    for name in _INDEXES:
        if (path / name).exists():
            return Snapshot(_shards(path / name), config)
    known = [path / name for name in _SNAPSHOT if (path / name).exists()]
    files = known[:1] or sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(files) != 1:
        found = (
            f"several files of weights ({', '.join(file.name for file in files[:3])}, ...)" if files else "no weights"
        )
        example = next(iter(inside or files), path / _SNAPSHOT[0])
        raise UserError(f"{path} holds {found}: name one file in backbone_weights, such as {example}")
    return Snapshot(files, config)


def kind(file: Path) -> Kind:
    """The kind of a file, by its content. Raises UserError if it is not a weight file."""
    with file.open("rb") as opened:
        head = opened.read(512)
    if not head:
        raise UserError(f"{file} is not a weight file: it is empty")
    if git_lfs.is_pointer(file):
        raise UserError(f"{file} {git_lfs.ADVICE}")
    for start, what in _OTHERS.items():
        if head.lstrip()[: len(start)].lower() == start.lower():
            raise UserError(f"{file} {what}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= file.stat().st_size - 8:
        return "safetensors"
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as content:
            return "npz" if all(name.endswith(".npy") for name in content.namelist()) else "torch"
    if head.startswith((b"PK\x03\x04", b"\x80")):  # a damaged archive, or a pickle as torch.save wrote it before 1.6
        return "torch"
    raise UserError(f"{file} is not a weight file: choose safetensors, or a file that torch.save has written")


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file. Those in nested tables get dotted names (`teacher.backbone.cls_token`).

    Raises UserError if the file is damaged or holds anything but plain tensors.
    """
    try:
        if kind(file) == "safetensors":
            return _read_safetensors(file)
        # timm's own checkpoints hold the training arguments as a Namespace.
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([argparse.Namespace]),
            file.open("rb") as opened,  # given a path, torch would judge by its ending
        ):
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        if is_refusal(error):
            raise  # not the file's fault
        # A damaged file makes torch's and safetensors' readers raise a dozen unrelated types.
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):  # torch advises to run it
            raise UserError(f"{file} holds more than tensors, so it is not read: {_EXPORT}") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is not a weight file ({reason}): {_EXPORT}") from None
    tensors = dict(_tensors(content))
    if not tensors or not all(_is_plain(tensor) for tensor in tensors.values()):
        raise UserError(f"{file} is not a state dict (names of tensors): {_EXPORT}")
    return tensors


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
        # If two parameters share a tensor, save_model stores one and puts the other's name into the metadata.
        for name, kept in (opened.metadata() or {}).items():
            if name not in tensors and kept in tensors:
                tensors[name] = tensors[kept]
    return tensors


def _tensors(content: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested tables, under its dotted name."""
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content.detach()
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _tensors(value, f"{prefix}{name}.")


def _is_plain(tensor: Tensor) -> bool:
    """Whether this is an ordinary tensor with values."""
    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized


def _shards(index: Path) -> list[Path]:
    """The files that an index names."""
    named = _json(index).get("weight_map")
    names = sorted({Path(str(name)).name for name in named.values()}) if isinstance(named, dict) else []
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing or not names:
        raise UserError(f"{index} names {missing[0] if missing else 'no files'}: download the whole snapshot again")
    return [index.parent / name for name in names]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object: download the snapshot again")
    return content
