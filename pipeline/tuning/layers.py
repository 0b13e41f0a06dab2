"""The linear layers of a model's blocks, under timm's names: where kinds scale what passes, or add to it."""

from torch import nn

from pipeline.errors import UserError
from pipeline.tuning.norms import block_names


def block_layers(model: nn.Module, name: str) -> dict[str, nn.Linear]:
    """The linear layers of this name within the model's blocks, first to last: `blocks.0.mlp.fc2`.

    Raises UserError where there is none, or one whose weight is read without it being called.
    """
    blocks = tuple(f"{block}." for block in block_names(model))
    found = {
        path: module
        for path, module in model.named_modules()
        if path.startswith(blocks) and path.rpartition(".")[2] == name and isinstance(module, nn.Linear)
    }
    if not found:
        raise UserError(
            f"params.yaml: the blocks of the backbone have no linear layer {name}, which this tuning needs: set "
            "tuning: layernorm"
        )
    for path in found:
        owner = model.get_submodule(path.rpartition(".")[0])
        # BEiT, EVA and Swin V2 keep the biases of queries and values beside the layer, and then go past it.
        if name == "qkv" and getattr(owner, "q_bias", None) is not None:
            raise UserError(
                f"params.yaml: the backbone's {path} has its biases beside it, so this tuning cannot reach its output: "
                "set tuning: layernorm"
            )
    return found


def fused_qkv(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that compute queries, keys and values at once: a third of their rows each, in this order.

    Raises UserError where there is none.
    """
    layers = block_layers(model, "qkv")
    for path, layer in layers.items():
        if layer.out_features % 3:
            raise UserError(
                f"params.yaml: the backbone's {path} is not one layer for queries, keys and values of one size, which "
                "this tuning needs: set tuning: layernorm"
            )
    return layers
