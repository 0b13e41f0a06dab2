"""Selects which LayerNorms of the backbone are tuned, by timm's names. Two kinds share these options."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from pipeline.errors import UserError
from pipeline.params import Record

_NAMES = {"both": ("weight", "bias"), "scale": ("weight",), "bias": ("bias",)}

# Names of LayerNorms in timm's blocks: before, in or after a half. `in_norm` feeds both halves of a parallel block;
# `norm3` (Swin V2 CR) comes after a block and belongs to neither half.
_HALF = {
    "attention": re.compile(r"norm1|in_norm|q_norm|k_norm|attns?\..+"),
    "mlp": re.compile(r"norm2|in_norm|mlp\..+|ffns\..+"),
}
_NEITHER = re.compile(r"norm3")


class NormOptions(Record):
    """Which LayerNorms are tuned, and which of their parameters.

    norms: `all`; `attention` or `mlp`: those of that half of each block; `final`: those after the last block; `last_K`:
    those of the last K blocks, and those after them.
    """

    norms: Annotated[str, Field(pattern="^(all|attention|mlp|final|last_[1-9][0-9]{0,3})$")]
    parameters: Literal["both", "scale", "bias"]


@dataclass(frozen=True)
class _Norm:
    """A LayerNorm, and its place in the model."""

    name: str
    begun: int  # blocks that begin before it or with it
    inside: str  # its name within its block; empty outside the blocks


def norm_parameters(model: nn.Module, options: NormOptions) -> list[str]:
    """Names of the scales and biases of the chosen LayerNorms (arXiv 2308.09610, stage one).

    Raises UserError if `last_K` asks for more blocks than there are, if the model has no such LayerNorm, or if a
    LayerNorm belongs to no known half of a block.
    """
    names = [
        f"{norm}.{name}"
        for norm in _wanted(model, options.norms)
        for name, _ in model.get_submodule(norm).named_parameters()
        if name in _NAMES[options.parameters]
    ]
    if not names:
        raise UserError(f"params.yaml: norms is {options.norms}, but the backbone has no such LayerNorm")
    return names


def block_names(model: nn.Module) -> list[str]:
    """Names of the model's blocks from first to last, at any depth: `blocks.0`, `layers.2.blocks.5`.

    timm defines what a block is: the `group_matcher` of every model lists its layers by patterns, and the patterns of
    repeated blocks contain no fixed number.
    """
    patterns = model.group_matcher(coarse=False)["blocks"]  # type: ignore[operator]
    if isinstance(patterns, str):
        patterns = [(patterns, None)]
    found: dict[str, None] = {}
    for name, _ in model.named_modules():
        matches = ((re.match(pattern, name), number) for pattern, number in patterns)
        match, number = next(((match, number) for match, number in matches if match), (None, None))
        if match and match.groups() and number is None:
            found[match.group()] = None
    return list(found)


def _wanted(model: nn.Module, norms: str) -> list[str]:
    """Names of the chosen LayerNorms, in the order of the forward pass."""
    blocks = block_names(model)
    places = _places(model, blocks)
    if norms in _HALF:
        return [norm.name for norm in places if norm.inside and _is_of_half(norm, norms)]
    if norms == "final":
        return [norm.name for norm in places if not norm.inside and norm.begun == len(blocks)]
    count = int(norms.removeprefix("last_")) if norms.startswith("last_") else 0
    if count > len(blocks):
        raise UserError(f"params.yaml: norms is {norms}, but the backbone has {len(blocks)} blocks")
    return [norm.name for norm in places if norms == "all" or norm.begun > len(blocks) - count]


def _places(model: nn.Module, blocks: list[str]) -> list[_Norm]:
    """Every LayerNorm; timm registers modules in the order of the forward pass."""
    places, begun, block = [], 0, ""
    for name, module in model.named_modules():
        if begun < len(blocks) and name == blocks[begun]:
            begun, block = begun + 1, f"{name}."
        if isinstance(module, nn.LayerNorm):
            places.append(_Norm(name, begun, name.removeprefix(block) if block and name.startswith(block) else ""))
    return places


def _is_of_half(norm: _Norm, half: str) -> bool:
    if not any(pattern.fullmatch(norm.inside) for pattern in (*_HALF.values(), _NEITHER)):
        raise UserError(
            f"params.yaml: norms is {half}, but it is unknown to which half of a block the backbone's {norm.name} "
            "belongs: choose all, final or last_K"
        )
    return _HALF[half].fullmatch(norm.inside) is not None
