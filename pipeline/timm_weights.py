"""Weights of a timm model: from the Hugging Face hub, through timm and its cache, or from a local file."""

import difflib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.timm_vit import create_model, is_model, list_models, load_state_dict

_SHOWN = 3  # names of each kind in a report of what does not fit


def fetch(name: str, file: Path | None, *, embedded: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration of a timm model, the tag in its name or not.

    file: safetensors or a checkpoint of tensors (`.pth`), never code; None: the hub. Raises UserError where the model
    is unknown, has no LayerNorms, cannot be downloaded, or the file does not fit it.
    """
    if not is_model(name):
        known = [*embedded, *list_models()]
        close = difflib.get_close_matches(name, known, n=3) or [*embedded, "vit_base_patch16_224.augreg_in21k_ft_in1k"]
        raise UserError(f"params.yaml: backbone {name!r} is unknown: did you mean {' or '.join(close)}?")
    model = _create(name, pretrained=False)
    layernorms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if not layernorms or not hasattr(model, "patch_embed") or not hasattr(model, "set_input_size"):
        raise UserError(f"params.yaml: backbone {name!r} is no Vision Transformer with LayerNorms: choose a ViT")
    if file is None:
        weights = _create(name, pretrained=True).state_dict()
    else:
        weights = _read(file)
        heads = model.pretrained_cfg.get("classifier") or ()
        weights = without_heads(weights, (heads,) if isinstance(heads, str) else heads)
        check_fit(file, name, model.state_dict(), weights)
        check_finite(file, weights)
    statistics = {part: list(model.pretrained_cfg[part]) for part in ("mean", "std")}
    return weights, {"timm": name, **statistics}


def without_heads(weights: Mapping[str, Tensor], heads: Sequence[str]) -> dict[str, Tensor]:
    """The weights but for those of classifiers."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(f"{h}." for h in heads))}


def check_fit(file: Path, model: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises UserError that says which tensors are missing, too many or of another shape."""
    shapes = [
        f"{name} {list(found[name].shape)} for {list(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    differences = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(shapes),
        "of another type": sorted(
            name
            for name in expected.keys() & found.keys()
            if found[name].is_floating_point() != expected[name].is_floating_point()
        ),
    }
    parts = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in differences.items()
        if names
    ]
    if parts:
        raise UserError(
            f"{file} does not fit backbone {model!r} ({'; '.join(parts)}): choose the model it was made for"
        )


def check_finite(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises UserError where weights are NaN or infinite: every image would look the same."""
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{file}: {name} has values that are not finite: choose other weights")


def _create(name: str, *, pretrained: bool) -> Any:  # noqa: ANN401  (any of timm's classes)
    try:
        return create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        # The hub's client, its transport and timm raise a dozen unrelated types; all mean: the weights did not come.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the weights of {name} cannot be fetched from the hub ({reason}): connect, or name a local file of "
            "them as backbone_weights in params.yaml"
        ) from None


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):
            weights = load_state_dict(str(file), weights_only=True)
    except FileNotFoundError:
        raise UserError(f"params.yaml: backbone_weights {file} does not exist") from None
    except Exception as error:
        # A damaged file makes torch's and safetensors' readers raise a dozen unrelated types.
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):  # their advice: run the code
            raise UserError(f"{file} holds more than tensors and is not read: export it as safetensors") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is no file of weights ({reason}): export it as safetensors") from None
    if not isinstance(weights, dict) or not all(starmap(_is_named_tensor, weights.items())):
        raise UserError(f"{file} is no state dict (names of tensors): export it as safetensors")
    return weights


def _is_named_tensor(name: object, tensor: object) -> bool:
    """Whether it is an ordinary tensor, with values, under a name."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        return False
    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
