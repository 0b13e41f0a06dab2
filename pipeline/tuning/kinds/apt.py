"""`tuning: apt`: memory slots beside every attention, approximated prompt tuning (arXiv 2306.15706).

Prompts lengthen the sequence of every attention. Here they are a term that is added to its output instead: what m slots
M [m, D] answer to each token u that enters the attention,

    attn(u) <- e^s (attn(u) + g relu(u Q') v M),   Q = M + M W1' W2',   g = max_j relu(u Q')_j, without gradient.

A token meets no other token in it. W1 [4, D] and W2 [D, 4] adapt the keys alone; s rescales all of the attention's
output. The factor v is ours: it starts at 0, so that the first task starts as the pretrained model. `values: plain`
leaves it out, as published; the term is then small at the start, and not 0.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.params import Record
from pipeline.tuning.kind import AnyModel, Kind, shared_copy
from pipeline.tuning.norms import block_names

RANK = 4  # of what adapts the keys
SLOT_SIZE = 0.02  # deviation of the slots' numbers at the start


class Options(Record):
    """How much is remembered, and whether it starts from nothing."""

    slots: Annotated[int, Field(ge=1, le=10_000)]  # m, per block
    values: Literal["scaled", "plain"]  # by a learned factor that starts at 0, or as published


class Memory(nn.Module):
    """The slots beside one attention of width D."""

    def __init__(self, weight: Tensor, options: Options) -> None:
        """weight: of the attention's own projection [D, *], for width, type and device."""
        super().__init__()

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(weight.new_zeros(shape), requires_grad=False)

        width = weight.shape[0]
        self.slots, self.scale = zeros(options.slots, width), zeros()
        self.down, self.up = zeros(RANK, width), zeros(width, RANK)
        self.factor = zeros() if options.values == "scaled" else None

    def forward(self, inputs: Tensor, attended: Tensor) -> Tensor:
        """The attention's output [..., D] with what the slots answer to its input [..., D]."""
        keys = self.slots + self.slots @ self.down.T @ self.up.T
        answers = (inputs @ keys.T).relu()  # [..., m]
        strongest = answers.detach().amax(-1, keepdim=True)
        values = self.slots if self.factor is None else self.slots * self.factor
        return self.scale.exp() * (attended + strongest * (answers @ values))


def places(model: AnyModel, options: Options) -> AnyModel:
    """A copy of the model whose attentions have a memory beside them.

    Raises UserError for a model in which a block has no attention of its own.
    """
    model = shared_copy(model)
    for block in block_names(model):
        attentions = [module for name, module in model.get_submodule(block).named_modules() if _is_attention(name)]
        if not attentions:
            raise UserError(
                f"params.yaml: tuning: apt, but the backbone's {block} has no attention of its own: set tuning: "
                "layernorm"
            )
        for attention in attentions:
            attention.memory = Memory(attention.proj.weight, options)
            attention.register_forward_hook(_remember)
    return model


def _is_attention(name: str) -> bool:
    return name.rpartition(".")[2] == "attn"


def _remember(attention: nn.Module, inputs: tuple[Tensor, ...], attended: Tensor) -> Tensor:
    return attention.get_submodule("memory")(inputs[0], attended)  # type: ignore[no-any-return]


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """What the task before remembers, or small random slots of which nothing is used yet."""
    del options, images
    if previous:
        return previous
    names = [name for name, _ in backbone.model.named_parameters() if ".memory." in name]
    sizes = {"slots": SLOT_SIZE, "down": 1.0}
    return {
        name: sizes.get(name.rpartition(".")[2], 0.0) * torch.randn(tensor.shape, generator=generator)
        for name, tensor in backbone.pretrained(names).items()
    }


KIND = Kind(
    options=Options,
    start=start,
    sentence="""Each task tunes a few memory slots beside every attention of the frozen backbone: what they answer to a
        token is added to the attention's output.""",
    places=places,
    means_of_chain=True,  # slots that start at random mean nothing in one another's places
    size=SLOT_SIZE,
)
