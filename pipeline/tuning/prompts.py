"""What kinds of prompts share: the frozen model is asked first, and its answer, the query, chooses for each image.

The query of an image is the frozen backbone's output. The model with prompts runs the frozen one itself before each
batch, so images, crops and views all bring their own query, in training as at inference: two passes for an image.
At inference, nothing of what is chosen depends on the other images of a batch.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Tuned
from pipeline.errors import UserError
from pipeline.tuning.kind import AnyModel, shared_copy
from pipeline.tuning.norms import block_names

SIZE = 0.5  # typical number of a prompt that starts uniform within -1 and 1


class Choosing(Protocol):
    """Prompts that choose by queries; a module."""

    def choose(self, query: Tensor) -> None:
        """Make the prompts of a batch from its queries [B, D]."""


def with_prompts(model: AnyModel, prompts: Choosing) -> AnyModel:
    """A copy of the model with a module `prompts`, which gets the queries of each batch before it is run."""
    prompted: Any = shared_copy(model)
    prompted.prompts = prompts

    def ask(_: nn.Module, inputs: tuple[Tensor]) -> None:
        with torch.no_grad():
            query = model(inputs[0])
        prompts.choose(query)

    prompted.register_forward_pre_hook(ask)
    return prompted  # type: ignore[no-any-return]


def register_mark(prompts: nn.Module) -> None:
    """Give the module `prompts` the mark of training, unset. It is on the CPU, so nothing waits for the device."""
    prompts.register_buffer("in_training", torch.tensor(False), persistent=False)


def in_training(generator: torch.Generator) -> Tuned:
    """The mark of training, set: what a kind draws for each batch (pipeline.tuning.kind.Kind.draw)."""
    del generator
    return {"prompts.in_training": torch.tensor(True)}


class PrefixAttention(nn.Module):
    """timm's attention, whose tokens also attend to keys and values that no token brings: the prefix of each image."""

    prefix: tuple[Tensor, Tensor]  # keys and values, [B, L, D] each, of the batch to come

    def __init__(self, attention: Any) -> None:  # noqa: ANN401
        """attention: takes the modules of this one, under the same names."""
        super().__init__()
        for name, module in attention.named_children():
            self.add_module(name, module)
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim

    def forward(self, inputs: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        """[B, N, D] to the same; blocks pass neither mask nor order."""
        assert attn_mask is None
        assert not is_causal
        of: Any = self
        queries, keys, values = self._heads(of.qkv(inputs)).chunk(3, dim=1)  # [B, H, N, d]
        queries, keys = of.q_norm(queries), of.k_norm(keys)
        before = [self._heads(part.to(values.dtype)) for part in self.prefix]
        keys, values = torch.cat([before[0], keys.to(values.dtype)], 2), torch.cat([before[1], values], 2)
        mixed = functional.scaled_dot_product_attention(queries.to(values.dtype), keys, values)
        output: Tensor = of.proj_drop(of.proj(of.norm(mixed.transpose(1, 2).flatten(2))))
        return output

    def _heads(self, tokens: Tensor) -> Tensor:
        """[B, N, k D] to [B, k H, N, d]."""
        split: Tensor = tokens.unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        return split


def prefix_attentions(model: nn.Module, count: int, tuning: str) -> list[PrefixAttention]:
    """Replace the attention of the first blocks of a copy of the model; the new ones, first to last.

    Raises UserError if there are too few blocks, or if their attention is not that of timm's ViT.
    """
    blocks = block_names(model)
    if len(blocks) < count:
        raise UserError(
            f"params.yaml: tuning: {tuning} puts prompts into {count} blocks, but the backbone has {len(blocks)}"
        )
    placed = []
    for block in blocks[:count]:
        attention: Any = dict(model.named_modules()).get(f"{block}.attn")
        parts = ("qkv", "q_norm", "k_norm", "norm", "proj", "proj_drop", "head_dim")
        if not all(hasattr(attention, part) for part in parts) or getattr(attention, "gate", None) is not None:
            raise UserError(
                f"params.yaml: tuning: {tuning}, but the backbone's {block} has no attention like that of timm's ViT: "
                "set tuning: layernorm"
            )
        placed.append(PrefixAttention(attention))
        model.set_submodule(f"{block}.attn", placed[-1])
    return placed


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform within -1 and 1."""
    return 2 * torch.rand(shape, generator=generator) - 1


def similarity(query: Tensor, keys: Tensor) -> Tensor:
    """Cosine of queries [B, D] to keys [P, D]: [B, P]."""
    cosines: Tensor = functional.normalize(query, dim=1) @ functional.normalize(keys, dim=1).T
    return cosines
