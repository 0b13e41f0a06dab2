"""`tuning: lora`: a product of two thin matrices beside the frozen weights (arXiv 2106.09685).

A layer W x + b becomes W x + b + (alpha / rank) B A x, with A [rank, in] and B [out, rank]; A starts at random, B at 0.
The layers are the fused qkv of each block and, optionally, both layers of its MLP. At inference W + (alpha / rank) B A
takes the place of W, once for all images of a task: a pass then costs what the frozen one does.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.params import Record
from pipeline.tuning.kind import AnyModel, Kind, Rows, shared_copy
from pipeline.tuning.layers import block_layers


class Options(Record):
    """How much is added, and where."""

    rank: Annotated[int, Field(ge=1, le=4096)]
    alpha: Annotated[float, Field(gt=0, le=1000)]  # what is added is scaled by alpha / rank
    mlp: bool  # beside each MLP's layers, too


def places(model: AnyModel, options: Options) -> AnyModel:
    """With matrices `lora_a` [rank, in] and `lora_b` [out, rank] at each layer; both 0.

    Raises UserError for a model that has no such layers, and for a rank that a layer cannot have.
    """
    model = shared_copy(model)
    scale = options.alpha / options.rank

    def add(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:  # noqa: ANN401
        thin = functional.linear(inputs[0], layer.lora_a).flatten(0, -2)
        sums = torch.addmm(output.flatten(0, -2), thin, layer.lora_b.T, alpha=scale)
        return sums.view(output.shape)

    for name in ("qkv", "fc1", "fc2") if options.mlp else ("qkv",):
        for path, layer in block_layers(model, name).items():
            if options.rank > (most := min(layer.in_features, layer.out_features)):
                raise UserError(f"params.yaml: lora.rank is {options.rank}, but the backbone's {path} has rank {most}")
            for matrix, shape in (
                ("lora_a", (options.rank, layer.in_features)),
                ("lora_b", (layer.out_features, options.rank)),
            ):
                layer.register_parameter(matrix, nn.Parameter(layer.weight.new_zeros(shape), requires_grad=False))
            layer.register_forward_hook(add)
    return model


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """Matrices of the task before; or B of zeros and A uniform within 1 / sqrt(in), as the authors' code draws it."""
    del options, images
    if previous:
        return previous
    zeros = backbone.pretrained(
        name for name, _ in backbone.model.named_parameters() if name.endswith((".lora_a", ".lora_b"))
    )
    for name, matrix in zeros.items():
        if name.endswith(".lora_a"):
            bound = matrix.shape[1] ** -0.5
            matrix.uniform_(-bound, bound, generator=generator)
    return zeros


def fold(model: nn.Module, options: Options, tuned: Rows) -> Tuned:
    """W + (alpha / rank) B A."""
    folded: Tuned = {}
    for layer, a, b in _pairs(tuned):
        share = tuned.get(f"{layer}.lora_share", a.new_ones(len(a)))  # of each row of A; see `means`
        weight = model.get_parameter(f"{layer}.weight")
        folded[f"{layer}.weight"] = torch.addmm(weight, b * share, a, alpha=options.alpha / options.rank)
    return folded


def means(bank: Rows) -> Rows:
    """The mean of the products B A of tasks 0 to t, exactly.

    The product of mean A and mean B would be another matrix: it mixes A of one task with B of another. A sum of
    products is a product, too: of all B side by side with all A below one another. So every row has the same two
    matrices, [T rank, in] and [out, T rank]; `lora_share` [T rank] says how much of each task is in row t.
    """
    rows: Tuned = {}
    for layer, a, b in _pairs(bank):  # [T, rank, in], [T, out, rank]
        tasks, rank = a.shape[:2]
        below, beside = a.flatten(0, 1), b.permute(1, 0, 2).flatten(1)
        step = torch.arange(tasks)
        share = (step <= step[:, None]) / (1.0 + step[:, None])  # [T, T]: of the tasks up to a step, the same share
        rows |= {
            f"{layer}.lora_a": below.expand(tasks, *below.shape),
            f"{layer}.lora_b": beside.expand(tasks, *beside.shape),
            f"{layer}.lora_share": share.repeat_interleave(rank, 1).to(a.dtype),
        }
    return rows


def _pairs(tensors: Rows) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each layer with its A and B."""
    for name, a in tensors.items():
        layer, _, which = name.rpartition(".")
        if which == "lora_a":
            yield layer, a, tensors[f"{layer}.lora_b"]


KIND = Kind(
    options=Options,
    start=start,
    sentence="""Each task tunes a product of two thin matrices, which is added to the frozen weights of the attention
        (and of the MLPs, with `lora.mlp`).""",
    places=places,
    fold=fold,
    means=means,
    size=0.02,  # a weight of a ViT
)
