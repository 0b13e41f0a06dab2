"""Reads a timm model's weights from a checkpoint as its authors publish it, the way timm does. Refuses all others."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.timm_vit import State, create_with_filter
from pipeline.backbone.weight_files import Snapshot, kind
from pipeline.backbone.weight_files import read as read_tensors
from pipeline.errors import UserError

_SHOWN = 3  # names of each kind that a message lists

# Heads, decoders and masks: needed for training, not for features. A checkpoint may contain them.
_LEFT_OUT = re.compile(
    r"(head|head_dist|heads|fc|classifier|lm_head|dino_head|ibot_head|cls_head|proj_head|decoder\w*|projectors?"
    r"|predictor|pre_logits|mask_token|norm_pix_loss|logit_scale|logit_bias)(\.|$)"
)
_AVERAGED = {"ema", "teacher"}  # parts of the names of weights averaged over training; timm prefers these, too


def read(snapshot: Snapshot, file: Path, name: str, model: nn.Module) -> tuple[State, dict[str, Any]]:
    """The weights as timm reads them, and the arguments with which `create_model` builds a model that they fit.

    The arguments may be another `img_size`, so that position embeddings are resampled only once, when the backbone is
    built; or another `global_pool`, if the file has its norm after the mean of the patches and the model before it, or
    vice versa.
    """
    if kind(snapshot.files[0]) == "npz":
        return _read_jax(snapshot.files[0], name, model), {}
    tensors = {key: tensor for part in snapshot.files for key, tensor in read_tensors(part).items()}
    state = the_model(tensors, anchor=_anchor(model))
    arguments = _image_size(state, model)
    expected, found = _filtered(state, file, name, arguments)
    if "fc_norm.weight" in found.keys() - expected.keys() and "norm.weight" in expected.keys() - found.keys():
        arguments["global_pool"] = "avg"
        expected, found = _filtered(state, file, name, arguments)
    elif "norm.weight" in found.keys() - expected.keys() and "fc_norm.weight" in expected.keys() - found.keys():
        arguments["global_pool"] = "token"
        expected, found = _filtered(state, file, name, arguments)
    check_fit(file, name, expected, found)
    check_finite(file, found)
    # Tied parameters are one tensor in a checkpoint, but separate ones in safetensors.
    return {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in found.items()}, arguments


def the_model(tensors: Mapping[str, Tensor], *, anchor: str) -> State:
    """The model's own tensors, wherever the checkpoint keeps them, under the model's names.

    anchor: the name of a tensor that every copy of the model has; the prefix before it (`teacher.backbone.`) is
    removed. If there are several copies, the one averaged over training is taken, else the one with the shortest name.
    """
    copies = [key.removesuffix(anchor) for key in tensors if key == anchor or key.endswith(f".{anchor}")]
    if not copies:  # a family with other names, which timm's filter knows
        copies = [f"{key}." for key in ("state_dict_ema", "model_ema", "state_dict", "model")]
        copies = [copy for copy in copies if any(key.startswith(copy) for key in tensors)][:1] or [""]
    chosen = min(copies, key=lambda copy: (not _AVERAGED.intersection(re.split(r"[._]", copy)), len(copy)))
    state = {key.removeprefix(chosen): tensor for key, tensor in tensors.items() if key.startswith(chosen)}
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    # DINOv2 saves blocks in chunks, with block numbers that run on: blocks.CHUNK.BLOCK.
    state = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): tensor for key, tensor in state.items()}
    # CPUs hardly support 8-bit floats.
    return {
        key: tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
        for key, tensor in state.items()
    }


def check_fit(file: Path, model: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises UserError that lists missing and unexpected tensors, and those of another shape or type."""
    both = sorted(expected.keys() & found.keys())
    differences = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(found[name].shape)} for {list(expected[name].shape)}"
            for name in both
            if found[name].shape != expected[name].shape
        ],
        "of another type": [
            name for name in both if found[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    parts = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in differences.items()
        if names
    ]
    if parts:
        raise _misfit(file, model, "; ".join(parts))


def check_finite(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises UserError if weights are NaN or infinite: all images would get the same features."""
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{file}: {name} has values that are not finite: choose other weights")


def _filtered(state: State, file: Path, name: str, arguments: Mapping[str, Any]) -> tuple[State, State]:
    """The state dict of the model with these arguments, and that of the file after timm's filter for the model."""
    model, read_as_timm = create_with_filter(name, num_classes=0, **arguments)
    expected = model.state_dict()
    patches = _anchor(model)
    if patches in state and state[patches].ndim == expected[patches].ndim == 4:
        # timm would resample the patches, but weights for patches of another size belong to another model.
        check_fit(file, name, {patches: expected[patches]}, {patches: state[patches]})
    try:
        found = read_as_timm(dict(state))
    except Exception as error:
        # For unknown weights a filter may raise any type. A list of the differences is more helpful.
        check_fit(file, name, expected, state)
        raise _misfit(file, name, f"{type(error).__name__}: {error}") from None
    heads = model.pretrained_cfg.get("classifier") or ()
    left_out = (heads,) if isinstance(heads, str) else tuple(heads)
    return expected, {
        key: tensor
        for key, tensor in found.items()
        if key in expected or not (_LEFT_OUT.match(key) or key.startswith(tuple(f"{head}." for head in left_out)))
    }


def _misfit(file: Path, model: str, reason: str) -> UserError:
    return UserError(f"{file} does not fit backbone {model!r} ({reason}): choose the model it was made for")


def _anchor(model: nn.Module) -> str:
    """Name of the weights that turn patches into tokens."""
    return next(
        name for name, tensor in model.state_dict().items() if name.startswith("patch_embed.") and tensor.ndim > 1
    )


def _image_size(state: State, model: Any) -> dict[str, Any]:  # noqa: ANN401  (any of timm's classes)
    """The image size of the file's position embeddings, if the model has another."""
    positions, patch = state.get("pos_embed"), model.patch_embed.patch_size[0]
    if positions is None or positions.ndim != 3 or getattr(model, "pos_embed", None) is None:
        return {}
    for tokens in (getattr(model, "num_prefix_tokens", 0), 1, 0):  # class and register tokens precede the patches
        side = math.isqrt(max(0, positions.shape[1] - tokens))
        if side and side**2 == positions.shape[1] - tokens:
            return {} if (side, side) == tuple(model.patch_embed.grid_size) else {"img_size": side * patch}
    return {}


def _read_jax(file: Path, name: str, model: Any) -> State:  # noqa: ANN401
    """Weights as Google publishes them, in a NumPy archive."""
    import numpy as np  # noqa: PLC0415

    try:
        model.load_pretrained(str(file))
        with np.load(file, allow_pickle=False) as content:
            count = sum(
                content[key].size for key in content.files if not re.search(r"(?i)head/|pre_logits|pos_?embed", key)
            )
    except Exception as error:
        # timm passes on NumPy's errors, and raises KeyError for missing tensors, RuntimeError for other shapes.
        raise _misfit(file, name, f"{type(error).__name__}: {error}") from None
    state: State = model.state_dict()
    expected = sum(tensor.numel() for key, tensor in state.items() if "pos_embed" not in key)
    if count != expected:
        raise _misfit(file, name, f"it has {count:,} values, the model {expected:,}")
    check_finite(file, state)
    return state
