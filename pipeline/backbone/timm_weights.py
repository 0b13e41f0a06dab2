"""Weights of a timm model: from the Hugging Face hub, through timm and its cache, or from local files."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from torch import Tensor, nn

from pipeline.backbone import checkpoint, weight_files
from pipeline.backbone.timm_vit import create_model, is_model, list_models
from pipeline.data.remote import Missing
from pipeline.errors import UserError, is_refusal


def fetch(name: str, file: Path | None, *, embedded: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration of a timm model. The name may include the tag.

    file: a file of weights or the folder of a hub snapshot (backbone.weight_files); None downloads from the hub. Raises
    UserError if the model is unknown, has no LayerNorms or cannot be downloaded, or if the file does not fit it.
    """
    check_known(name, embedded)
    model = _create(name, pretrained=False)
    check_kind(name, model)
    published: Mapping[str, Any] = model.pretrained_cfg
    arguments: dict[str, Any] = {}
    if file is None:
        weights = _create(name, pretrained=True).state_dict()
    else:
        snapshot = weight_files.find(file)
        check_name(file, name, snapshot.config)
        weights, arguments = checkpoint.read(snapshot, file, name, model)
        published = {**published, **snapshot.config.get("pretrained_cfg", {})}
    statistics = {part: list(published[part]) for part in ("mean", "std")}
    return weights, {"timm": name, **({"arguments": arguments} if arguments else {}), **statistics}


def missing(name: str, *, embedded: Sequence[str]) -> list[Missing]:
    """The file that must be downloaded from the hub for a model, unless it is in the hub's cache."""
    check_known(name, embedded)
    with torch.device("meta"):  # parameters that take no memory, only to be counted
        model = _create(name, pretrained=False)
    check_kind(name, model)
    repository = str(model.pretrained_cfg.get("hf_hub_id") or "").partition("@")[0]
    named = model.pretrained_cfg.get("hf_hub_filename")
    files = [named] if named else ["model.safetensors", "pytorch_model.bin"]
    if not repository or any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return []
    megabytes = 4e-6 * sum(parameter.numel() for parameter in model.parameters())
    place = "anywhere, with its path as backbone_weights in params.yaml"
    return [Missing(hf_hub_url(repository, files[0]), megabytes, place)]


def check_known(name: str, embedded: Sequence[str]) -> None:
    """Raises UserError for a name that timm does not know, and suggests similar names."""
    if not is_model(name):
        known = [*embedded, *list_models()]
        close = difflib.get_close_matches(name, known, n=3) or [*embedded, "vit_base_patch16_224.augreg_in21k_ft_in1k"]
        raise UserError(f"params.yaml: backbone {name!r} is unknown: did you mean {' or '.join(close)}?")


def check_kind(name: str, model: nn.Module) -> None:
    """Raises UserError for a model without LayerNorms or with a fixed input size."""
    if not any(isinstance(module, nn.LayerNorm) for module in model.modules()):
        norms = sorted({type(module).__name__ for module in model.modules() if "Norm" in type(module).__name__})
        raise UserError(
            f"params.yaml: backbone {name!r} is not a Vision Transformer with LayerNorms (its norms: "
            f"{', '.join(norms) or 'none'}): choose a ViT"
        )
    if not hasattr(model, "patch_embed") or not hasattr(model, "set_input_size"):
        raise UserError(
            f"params.yaml: backbone {name!r} cannot be used: timm's {type(model).__name__} has no set_input_size, so "
            "image_size cannot be changed: choose a ViT, DeiT, BEiT, EVA, DINO or Swin"
        )


def check_name(file: Path, name: str, config: Mapping[str, Any]) -> None:
    """Raises UserError if the config.json of a snapshot names another model."""
    architecture = config.get("architecture")
    if architecture is None and "model_type" in config:
        raise UserError(
            f"{file} holds a model of the transformers library ({config['model_type']}), whose tensors have other "
            f"names: choose timm's own weights of {name!r}"
        )
    if architecture not in (None, name.partition(".")[0]):
        raise UserError(f"{file} holds {architecture}, not {name!r}: set backbone to {architecture}")


def _create(name: str, *, pretrained: bool) -> Any:  # noqa: ANN401  (any of timm's classes)
    try:
        return create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        if is_refusal(error):
            raise  # a full disk, say
        # The hub's client, its transport and timm raise a dozen unrelated types. All mean that the download failed.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the weights of {name} cannot be fetched from the hub ({reason}): connect, or set backbone_weights in "
            "params.yaml to a local file of them"
        ) from None
