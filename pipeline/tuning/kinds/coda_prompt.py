"""`tuning: coda_prompt`: prompts that are sums of components, weighted for each image (CODA-Prompt, arXiv 2211.13218).

In each of the first blocks, component m has a prompt P_m [length, D], a key K_m and an attention A_m. An image with
query q gets sum_m cos(q * A_m, K_m) P_m: the first half of it are keys, the second half values, before those of the
tokens. A task adds components and trains them alone; those of earlier tasks take part, without gradient. New components
start orthogonal to all others, each of length 1, as far as the width has room. `orthogonality` weighs the penalty

    sum over blocks and over K, A, P of mean((T T' - I)^2),

which the released settings leave at 0.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.tuning.kind import AnyModel, Kind
from pipeline.tuning.prompts import prefix_attentions, with_prompts

PARTS = ("prompts", "keys", "attention")


class Options(Record):
    """Which blocks get prompts, and of how many components."""

    blocks: Annotated[int, Field(ge=1, le=1000)]
    components: Annotated[int, Field(ge=1, le=10_000)]
    length: Annotated[int, Field(ge=2, le=10_000, multiple_of=2)]
    orthogonality: Annotated[float, Field(ge=0, le=1e6)]


class Components(nn.Module):
    """M components in each of some blocks; the weights [B, M, blocks] of the last batch."""

    weights: Tensor
    penalty: Tensor  # of this batch: the tensors are not in their places afterwards
    attentions: tuple[Any, ...] = ()  # a tuple, so that their parameters are not this module's

    def __init__(self, options: Options, like: Tensor) -> None:
        """like: a parameter [..., D], for width, type and device."""
        super().__init__()
        self.new, self.orthogonality = options.components, options.orthogonality
        for name, shape in _shapes(options, like.shape[-1]).items():
            self.register_parameter(name, nn.Parameter(like.new_zeros(shape), requires_grad=False))

    def trained(self) -> list[Tensor]:
        """Prompts [M, blocks, length, D], keys and attention [M, blocks, D]; no gradient for those of earlier tasks."""
        tensors = [getattr(self, name) for name in PARTS]
        return [torch.cat([tensor[: -self.new].detach(), tensor[-self.new :]]) for tensor in tensors]

    def choose(self, query: Tensor) -> None:
        """Sum the components of each image."""
        prompts, keys, attention = self.trained()
        self.penalty = query.new_zeros(())
        if self.orthogonality:
            self.penalty = self.orthogonality * sum(map(distance, (prompts, keys, attention)), self.penalty)
        attended = functional.normalize(query[:, None, None] * attention, dim=3)  # [B, M, blocks, D]
        self.weights = (attended * functional.normalize(keys, dim=2)).sum(3)
        sums = torch.einsum("bmk,mkld->kbld", self.weights, prompts)
        for attention_of_block, prompt in zip(self.attentions, sums, strict=True):
            attention_of_block.prefix = prompt.chunk(2, dim=1)


def _shapes(options: Options, dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes after the first task."""
    rows = (options.components, options.blocks)
    return {"prompts": (*rows, options.length, dim), "keys": (*rows, dim), "attention": (*rows, dim)}


def places(model: AnyModel, options: Options) -> AnyModel:
    """A copy of the model with components. Raises UserError for one with too few blocks or another attention."""
    first: Any = next(model.parameters())
    components = Components(options, first.new_empty(int(model.num_features)))  # type: ignore[arg-type]
    prompted = with_prompts(model, components)
    components.attentions = tuple(prefix_attentions(prompted, options.blocks, "coda_prompt"))
    return prompted


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """The components so far, and new ones orthogonal to them."""
    del images
    started = {}
    for name, shape in _shapes(options, backbone.model.num_features).items():
        old = previous.get(f"prompts.{name}", torch.empty(0, *shape[1:]))
        of_blocks = [
            orthogonal(old[:, block].flatten(1), options.components, generator).view(shape[0], *shape[2:])
            for block in range(options.blocks)
        ]
        started[f"prompts.{name}"] = torch.cat([old, torch.stack(of_blocks, 1)])
    return started


def orthogonal(old: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random directions [count, D] of length 1, orthogonal to one another and to the rows of `old` [M, D].

    If there is no room for them all, they are only random.
    """
    new = torch.randn(count, old.shape[1], generator=generator).double()
    if len(old) + count <= old.shape[1]:
        basis = torch.linalg.qr(old.double().T).Q
        new = torch.linalg.qr((new - new @ basis @ basis.T).T).Q.T
    return functional.normalize(new, dim=1).float()


def distance(components: Tensor) -> Tensor:
    """How far components [M, blocks, ...] are from orthogonal ones of length 1, summed over the blocks."""
    rows = components.flatten(2).transpose(0, 1)
    identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return (rows @ rows.mT - identity).square().mean((1, 2)).sum()


def penalty(model: nn.Module) -> Tensor:
    """The weighted distance from orthogonality, of the components of all tasks."""
    components: Any = model.get_submodule("prompts")
    return components.penalty  # type: ignore[no-any-return]


KIND = Kind(
    options=Options,
    start=start,
    sentence="""Each task adds components of prompts and tunes them. The frozen backbone's output weighs the components
    of
        all tasks for each image; their sums are keys and values in the first blocks.""",
    places=places,
    means=None,
    penalty=penalty,
    asks_frozen=True,
    grows=lambda options: {f"prompts.{name}": options.components for name in PARTS},
    size=0.05,
    keeps="newest",
)
