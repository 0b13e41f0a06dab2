"""`tuning: dualprompt`: a prompt for all tasks, and one for each task, chosen by its key (arXiv 2204.04799).

Prompts are keys and values before those of the tokens. The first blocks share the general prompt, which every task
trains on; the next ones have the expert prompt of a task. In training, an image gets its own task's expert; at
inference that of the key most similar to its query. A task's expert starts as the one before. The loss is the
cross-entropy over the task's classes minus `pull` times the cosine between an image's query and its task's key.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.tuning.kind import AnyModel, Kind
from pipeline.tuning.prompts import (
    SIZE,
    in_training,
    prefix_attentions,
    register_mark,
    similarity,
    uniform,
    with_prompts,
)


class Options(Record):
    """Which blocks get prompts, and how long these are."""

    general_blocks: Annotated[int, Field(ge=0, le=1000)]
    expert_blocks: Annotated[int, Field(ge=1, le=1000)]
    length: Annotated[int, Field(ge=1, le=10_000)]
    pull: Annotated[float, Field(ge=0, le=1e6)]


class DualPrompts(nn.Module):
    """The general prompt, and experts and keys of T tasks; the prefixes and similarities of the last batch."""

    in_training: Tensor
    similarities: Tensor  # [B] of each image to the key of its expert
    chosen: Tensor  # [B] its task

    def __init__(self, options: Options, like: Tensor) -> None:
        """like: a parameter [..., D], for width, type and device."""
        super().__init__()
        self.pull, dim = options.pull, like.shape[-1]
        for name, shape in _shapes(options, dim).items():
            self.register_parameter(name, nn.Parameter(like.new_zeros(shape), requires_grad=False))
        register_mark(self)

    def choose(self, query: Tensor) -> None:
        """Take the newest task's expert in training, else that of the most similar key."""
        parts: Any = self  # registered parameters
        similarities = similarity(query, parts.keys)  # [B, T]
        best = similarities.argmax(1)
        self.chosen = torch.full_like(best, len(parts.keys) - 1) if bool(self.in_training) else best
        self.similarities = similarities.gather(1, self.chosen[:, None])[:, 0]
        general = parts.general.expand(len(query), *parts.general.shape)
        prompts = torch.cat([general, parts.experts[self.chosen]], 1)  # [B, blocks, 2, L, D]
        for number, attention in enumerate(self.attentions):
            attention.prefix = (prompts[:, number, 0], prompts[:, number, 1])

    attentions: tuple[Any, ...] = ()  # a tuple, so that their parameters are not this module's


def _shapes(options: Options, dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes after the first task."""
    return {
        "general": (options.general_blocks, 2, options.length, dim),
        "experts": (1, options.expert_blocks, 2, options.length, dim),
        "keys": (1, dim),
    }


def places(model: AnyModel, options: Options) -> AnyModel:
    """A copy of the model with prompts. Raises UserError for one with too few blocks or another attention."""
    first: Any = next(model.parameters())
    prompts = DualPrompts(options, first.new_empty(int(model.num_features)))  # type: ignore[arg-type]
    prompted = with_prompts(model, prompts)
    prompts.attentions = tuple(
        prefix_attentions(prompted, options.general_blocks + options.expert_blocks, "dualprompt")
    )
    return prompted


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """One more expert, a copy of the last, and one more key; all uniform within -1 and 1 for the first task."""
    del images
    shapes = _shapes(options, backbone.model.num_features)
    new = {f"prompts.{name}": uniform(shape, generator) for name, shape in shapes.items()}
    if not previous:
        return new
    experts, keys = previous["prompts.experts"], previous["prompts.keys"]
    return previous | {
        "prompts.experts": torch.cat([experts, experts[-1:]]),
        "prompts.keys": torch.cat([keys, new["prompts.keys"]]),
    }


def penalty(model: nn.Module) -> Tensor:
    """Minus the similarity of the images to their task's key."""
    prompts: Any = model.get_submodule("prompts")
    return -prompts.pull * prompts.similarities.mean()  # type: ignore[no-any-return]


KIND = Kind(
    options=Options,
    start=start,
    sentence="""Each task tunes a general prompt, which all tasks share, and an expert prompt of its own. The frozen
        backbone's output chooses the expert of each image.""",
    places=places,
    means=None,
    penalty=penalty,
    draw=in_training,
    asks_frozen=True,
    grows=lambda _: {"prompts.experts": 1, "prompts.keys": 1},
    size=SIZE,
    keeps="newest",
)
