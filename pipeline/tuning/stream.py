"""The stream of tokens through a frozen ViT, and what may run beside it without being seen by it.

The blocks are timm's own. Their fused qkv already computes the keys and values of the tokens, so a hook hands them on:
nothing is computed twice and no block is copied. A hook is there for one pass only.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import UserError
from pipeline.tuning.norms import NormOptions, block_names, norm_parameters

_PLAIN = "timm.models.vision_transformer.Block", "timm.layers.attention.Attention"
Beside = Callable[[Any, Tensor], None]  # (block, queries, keys and values of its tokens [B, N, 3 D]), block by block


def plain_blocks(model: nn.Module) -> list[Any]:
    """The blocks of a plain ViT, first to last. Raises UserError for any other model."""
    blocks: list[tuple[str, Any]] = [(name, model.get_submodule(name)) for name in block_names(model)]
    for name, block in blocks:
        classes = _class_of(block), _class_of(getattr(block, "attn", None))
        if classes != _PLAIN or block.attn.gate is not None:
            raise UserError(
                f"params.yaml: the backbone's {name} is no block of a plain ViT, which this tuning needs: set tuning: "
                "layernorm"
            )
    return [block for _, block in blocks]


def _class_of(module: object) -> str:
    """By name, since importing timm takes seconds."""
    return f"{type(module).__module__}.{type(module).__name__}"


def last_norm(model: nn.Module) -> nn.LayerNorm:
    """The last LayerNorm after the blocks, from which the model's output comes."""
    name = norm_parameters(model, NormOptions(norms="final", parameters="both"))[-1].rpartition(".")[0]
    norm = model.get_submodule(name)
    assert isinstance(norm, nn.LayerNorm)
    return norm


def pass_with(model: nn.Module, inputs: Tensor, beside: Sequence[Beside]) -> Tensor:
    """The frozen model's output [B, D], in one pass. Each of `beside` is told of every block once."""

    def tell(block: Any, _: nn.Module, __: object, qkv: Tensor) -> None:  # noqa: ANN401
        for each in beside:
            each(block, qkv)

    with ExitStack() as hooks:
        for block in plain_blocks(model):
            hooks.callback(block.attn.qkv.register_forward_hook(partial(tell, block)).remove)
        output: Tensor = model(inputs)
    return output


def ask(block: Any, queries: Tensor, qkv: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """What queries [B, n, D] get from a block, [B, n, D] each: from its tokens, then from its MLP.

    The block's own frozen weights ask; the keys and values in qkv [B, N, 3 D] answer. No query meets another one.
    """
    attention, width = block.attn, queries.shape[-1]
    bias = None if attention.qkv.bias is None else attention.qkv.bias[:width]
    asked = functional.linear(block.norm1(queries), attention.qkv.weight[:width], bias)
    q, k, v = (
        tensor.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for tensor in (asked, *qkv.split(width, dim=2)[1:])
    )
    found = functional.scaled_dot_product_attention(attention.q_norm(q), attention.k_norm(k), v)
    found = block.ls1(attention.proj(attention.norm(found.transpose(1, 2).flatten(2))))
    return found, block.ls2(block.mlp(block.norm2(queries + found)))
