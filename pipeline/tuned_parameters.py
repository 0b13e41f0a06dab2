"""Which of the backbone's parameters a task tunes, under timm's names."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from pipeline.errors import UserError

Tuning = Literal["layernorm", "full", "none"]
TunedNorms = Annotated[str, Field(pattern="^(all|attention|mlp|final|last_[1-9][0-9]{0,3})$")]
TunedParameters = Literal["both", "scale", "bias"]

_SUFFIX = {"scale": ".weight", "bias": ".bias"}


def tuned_names(model: nn.Module, tuning: Tuning, norms: str, parameters: TunedParameters) -> list[str]:
    """Names of the parameters that a task tunes.

    tuning: `layernorm`, scale and bias of LayerNorms (arXiv 2308.09610, stage one); `full`, every parameter; `none`.
    norms: `all`; `attention` or `mlp`, those before (or, as q_norm and k_norm, in) that half of each block; `final`,
    those outside the blocks; `last_K`, those of the last K blocks and the final ones. Raises UserError where `last_K`
    asks for more blocks than there are, or the model has no such LayerNorm.
    """
    if tuning == "none":
        return []
    if tuning == "full":
        return [name for name, _ in model.named_parameters()]
    depth = 1 + max((_block(name) for name, _ in model.named_modules()), default=-1)
    if norms.startswith("last_") and int(norms.removeprefix("last_")) > depth:
        raise UserError(f"params.yaml: tuned_norms is {norms}, but the backbone has {depth} blocks")
    wanted = _members(norms, depth)
    names = [
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) and wanted(module_name)
        for name, _ in module.named_parameters()
    ]
    if parameters != "both":
        names = [name for name in names if name.endswith(_SUFFIX[parameters])]
    if not names:
        raise UserError(f"params.yaml: tuned_norms is {norms}, but the backbone has no such LayerNorm")
    return names


def _members(norms: str, depth: int) -> Callable[[str], bool]:
    """Whether a LayerNorm, by its name, is among those wanted."""
    if norms == "attention":
        return lambda name: _block(name) >= 0 and (name.endswith(".norm1") or ".attn." in name)
    if norms == "mlp":
        return lambda name: _block(name) >= 0 and (name.endswith(".norm2") or ".mlp." in name)
    if norms == "final":
        return lambda name: _block(name) < 0
    first = depth - int(norms.removeprefix("last_")) if norms.startswith("last_") else 0
    return lambda name: _block(name) < 0 or _block(name) >= first


def _block(name: str) -> int:
    """Number of the block of a module `blocks.3.norm1`; -1 outside the blocks."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" and len(parts) > 1 else -1
