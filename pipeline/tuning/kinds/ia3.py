"""`tuning: ia3`: factors for keys, values and the hidden units of each MLP (T-Few, arXiv 2205.05638).

A block's keys become l_k * k, its values l_v * v, and what its second MLP layer gets l_ff * gelu(...). All start at 1.
Biases are part of k and v. So l_k and l_v scale two thirds of what a fused qkv puts out. At inference the factors are
multiplied into the weights, once for all images of a task: a pass then costs what the frozen one does.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import NoOptions
from pipeline.tuning.kind import AnyModel, Kind, Rows, shared_copy
from pipeline.tuning.layers import block_layers, fused_qkv


def places(model: AnyModel, options: NoOptions) -> AnyModel:
    """With factors `l_k`, `l_v` [D] at each qkv and `l_ff` [H] at each second layer of an MLP.

    Raises UserError for a model that has no such layers.
    """
    del options
    model = shared_copy(model)
    for qkv in fused_qkv(model).values():
        factor = qkv.weight.new_ones(qkv.out_features // 3)
        qkv.register_parameter("l_k", nn.Parameter(factor, requires_grad=False))
        qkv.register_parameter("l_v", nn.Parameter(factor.clone(), requires_grad=False))
        qkv.register_forward_hook(_scale_keys_and_values)
    for layer in block_layers(model, "fc2").values():
        factor = layer.weight.new_ones(layer.in_features)
        layer.register_parameter("l_ff", nn.Parameter(factor, requires_grad=False))
        layer.register_forward_pre_hook(_scale_inputs)
    return model


def _scale_keys_and_values(qkv: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:  # noqa: ANN401
    del inputs
    return (output * _of_rows(qkv.l_k, qkv.l_v)).to(output.dtype)  # the type: under autocast


def _scale_inputs(layer: Any, inputs: tuple[Tensor]) -> Tensor:  # noqa: ANN401
    scaled: Tensor = inputs[0] * layer.l_ff
    return scaled.to(inputs[0].dtype)


def _of_rows(l_k: Tensor, l_v: Tensor) -> Tensor:
    """Factors [3D] of queries, keys and values: 1 for the queries."""
    return torch.cat([torch.ones_like(l_k), l_k, l_v])


def start(backbone: Backbone, options: NoOptions, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """Factors of the task before, or ones."""
    del options, images, generator
    names = [name for name, _ in backbone.model.named_parameters() if name.endswith((".l_k", ".l_v", ".l_ff"))]
    return previous or backbone.pretrained(names)


def fold(model: nn.Module, options: NoOptions, tuned: Rows) -> Tuned:
    """Rows of qkv's weight and bias, and columns of the second layers' weights, times their factors."""
    del options
    folded: Tuned = {}
    for name, factor in tuned.items():
        layer, _, which = name.rpartition(".")
        if which == "l_ff":
            folded[f"{layer}.weight"] = model.get_parameter(f"{layer}.weight") * factor
        elif which == "l_k":
            rows = _of_rows(factor, tuned[f"{layer}.l_v"])
            for part, values in model.get_submodule(layer).named_parameters():  # weight, and bias where there is one
                folded[f"{layer}.{part}"] = values * (rows[:, None] if part == "weight" else rows)
    return folded


KIND = Kind(
    options=NoOptions,
    start=start,
    sentence="""Each task tunes factors for the keys, the values and the hidden units of each MLP, which start at 1
        ((IA)^3).""",
    places=places,
    fold=fold,
    scalable=True,
)
