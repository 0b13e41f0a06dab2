"""`features`: which vectors of one pass describe an image.

    cls        the model's own output: the CLS token after the last block, or what the model pools instead
    cls_patch  `cls` and the mean of the patch tokens
    cls_K      `cls` after each of the last K blocks, each through the final norm
    last_K     `cls_patch` after each of the last K blocks, in the same way

The tokens come from timm's own `forward_intermediates`, so the unmodified model runs, once. Each block is pooled by the
model's own head; the first vector is therefore the model's own output. Class and register tokens do not enter the mean
of the patches. Where the model itself pools by that mean, the CLS token, if there is one, is the second vector.
(Features of several layers: LayUP, arXiv 2312.08888.)
"""

import inspect
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.layout import Layout

FeaturesName = Annotated[str, Field(pattern="^(cls|cls_patch|(cls|last)_[1-9][0-9]{0,3})$")]


def layout_of(model: Any, features: str) -> Layout:  # noqa: ANN401
    """The vectors of a timm model's feature. Raises UserError for a model that cannot give them."""
    if features == "cls":
        return Layout(model.num_features)
    kind, _, count = features.partition("_")
    patches = kind == "last" or count == "patch"
    blocks = 1 if count == "patch" else int(count)
    function = getattr(model, "forward_intermediates", None)
    known = inspect.signature(function).parameters if function else {}
    if not {"norm", "return_prefix_tokens", "output_fmt"} <= set(known) or not hasattr(model, "forward_head"):
        raise UserError(
            f"params.yaml: features: {features} needs a ViT whose blocks share one row of tokens; timm's "
            f"{type(model).__name__} has none: set features: cls"
        )
    if blocks > len(model.blocks):
        raise UserError(f"params.yaml: features is {features}, but the backbone has {len(model.blocks)} blocks")
    more = patches and (_has_class_token(model) or not _pools_patches(model))  # than the model pools itself
    return Layout(model.num_features, blocks, 2 if more else 1)


class Vectors(nn.Module):
    """The model, read at its last blocks. Its parameters have the model's names, with `model.` in front."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        """model: a timm ViT, with the places that a kind has added."""
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, inputs: Tensor) -> Tensor:
        """Features [B, V D] of [B, 3, S, S]."""
        model: Any = self.model
        blocks = model.forward_intermediates(
            inputs,
            indices=self.layout.blocks,
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        vectors = [vector for block in reversed(blocks) for vector in self._of_block(block)]
        return torch.cat(vectors, dim=1)

    def _of_block(self, block: Tensor | tuple[Tensor, Tensor]) -> list[Tensor]:
        """The vectors [B, D] of one block, from its patch tokens and, if there are any, its prefix tokens."""
        model: Any = self.model
        patches, prefix = (block, None) if isinstance(block, Tensor) else block
        # A pool that reads the class token needs no copy of all tokens.
        if prefix is None:
            tokens = patches
        else:
            tokens = prefix if model.global_pool == "token" else torch.cat([prefix, patches], dim=1)
        vectors = [model.forward_head(tokens, pre_logits=True)]
        if self.layout.per_block == 1:
            return vectors
        other = prefix[:, 0] if prefix is not None and _pools_patches(model) else patches.mean(1)
        norm = getattr(model, "fc_norm", None)
        return [*vectors, other if norm is None else norm(other)]


def _pools_patches(model: Any) -> bool:  # noqa: ANN401
    return bool(model.global_pool == "avg")


def _has_class_token(model: Any) -> bool:  # noqa: ANN401
    return getattr(model, "cls_token", None) is not None
