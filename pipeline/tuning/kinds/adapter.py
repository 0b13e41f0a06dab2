"""`tuning: adapter`: two thin layers beside each MLP, AdaptFormer (arXiv 2205.13535).

What enters the second half of a block, x, also goes through an adapter, whose output is added to the block's:

    x <- x + MLP(norm2(x)) + scale (W2 relu(W1 x + b1) + b2),   W1 [width, D], W2 [D, width].

W2 and both biases start at 0, W1 uniform within 1 / sqrt(D), as the authors' code draws it. Their dropout of 0.1 is
left out: the model runs as at inference. RanPAC and APER tune one adapter with the first task (`tuned_tasks: first`),
EASE one per task (`tuning_init: pretrained`, `selection: all`).
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.params import Record
from pipeline.tuning.kind import AnyModel, Kind, shared_copy
from pipeline.tuning.norms import block_names


class Options(Record):
    """The size of an adapter."""

    width: Annotated[int, Field(ge=1, le=100_000)]
    scale: Annotated[float, Field(gt=0, le=1000)]


class Adapter(nn.Module):
    """Two thin layers, and what has entered the block's second half in this batch."""

    entered: Tensor  # [B, N, D]

    def __init__(self, width: int, scale: float, like: Tensor) -> None:
        """like: a parameter [D] of the block, for width, type and device."""
        super().__init__()
        self.scale, dim = scale, len(like)
        for name, shape in (("down", (width, dim)), ("down_bias", (width,)), ("up", (dim, width)), ("up_bias", (dim,))):
            self.register_parameter(name, nn.Parameter(like.new_zeros(shape), requires_grad=False))

    def remember(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        """Keep what enters the LayerNorm before the MLP."""
        del norm
        self.entered = inputs[0]

    def add(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """The output of the block's second half [B, N, D] with that of the adapter."""
        del module, inputs
        layers: Any = self  # registered parameters
        hidden = functional.linear(self.entered, layers.down, layers.down_bias).relu()
        return output + self.scale * functional.linear(hidden, layers.up, layers.up_bias)


def places(model: AnyModel, options: Options) -> AnyModel:
    """A copy of the model with an adapter in each block. Raises UserError for blocks unlike those of timm's ViT."""
    model = shared_copy(model)
    for name in block_names(model):
        block: Any = model.get_submodule(name)
        if not all(hasattr(block, part) for part in ("norm2", "mlp", "ls2")):
            raise UserError(
                f"params.yaml: tuning: adapter, but the backbone's {name} is no block with a LayerNorm before its MLP: "
                "set tuning: layernorm"
            )
        block.adapter = Adapter(options.width, options.scale, block.norm2.weight)
        block.norm2.register_forward_pre_hook(block.adapter.remember)
        block.ls2.register_forward_hook(block.adapter.add)
    return model


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """The adapters of the task before, or new ones, which add nothing yet."""
    del options, images
    if previous:
        return previous
    zeros = backbone.pretrained(name for name, _ in backbone.model.named_parameters() if ".adapter." in name)
    for name, tensor in zeros.items():
        if name.endswith(".down"):
            bound = tensor.shape[1] ** -0.5
            tensor.uniform_(-bound, bound, generator=generator)
    return zeros


KIND = Kind(
    options=Options,
    start=start,
    sentence="Each task tunes adapters, two thin layers beside the MLP of each block of the frozen backbone.",
    places=places,
    means_of_chain=True,  # hidden units that start at random mean nothing in one another's places
    size=0.02,
)
