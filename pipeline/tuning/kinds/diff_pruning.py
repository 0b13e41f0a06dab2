"""`tuning: diff_pruning`: a change of the backbone in a given share of its numbers (arXiv 2012.07463).

A task is tuned in two parts of `epochs` each. In the first, every number i of tensor g has a change w_i and a gate,

    theta_i = theta0_i + z_g z_i w_i,   z = clip(3 s - 1.5, 0, 1),   s = sigmoid(log u - log(1 - u) + a),

a hard-concrete gate (Louizos et al., arXiv 1712.01312) with noise u of its own for every batch; the penalty is the
share of gates that are expected to be open. Then the changes that are largest under their expected gates,
clip(3 sigmoid(a) - 1.5, 0, 1), are kept, as many as `share` says, and in the second part these alone are tuned on. The
released code prunes under the last sample of the noise instead, and goes on from w rather than from z w.

A task's file has indices and values of what changed, in the order of the model's parameters.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.tuning.kind import Kind, Rows
from pipeline.tuning.norms import NormOptions, norm_parameters

OPEN = 5.0  # a at the start
STRETCH, SHIFT = 3.0, -1.5  # of a sigmoid, to beyond 0 and 1
NOISE = 1e-4  # u is this far from 0 and 1 at least

Speed = Annotated[float, Field(ge=1e-3, le=1e6)]


class Options(Record):
    """What may change, and how much of it."""

    on: Literal["layernorms", "weights"]  # scale and bias of all LayerNorms, or every parameter
    share: Annotated[float, Field(gt=0, le=1)]  # of these numbers, that a task changes
    penalty: Annotated[float, Field(ge=0, le=1e6)]  # of all gates open, beside the class loss
    change_speed: Speed  # in the first part, changes learn at so many times lr
    gate_speed: Speed  # and gates


def tensors_of(model: nn.Module, options: Options) -> dict[str, Tensor]:
    """What may change, by name: P numbers in G tensors."""
    if options.on == "weights":
        return dict(model.named_parameters())
    return {
        name: model.get_parameter(name) for name in norm_parameters(model, NormOptions(norms="all", parameters="both"))
    }


def changed(tensors: Tuned, change: Tensor) -> Tuned:
    """These tensors with a change [P] added."""
    parts = change.split([tensor.numel() for tensor in tensors.values()])
    return {name: tensor + part.view_as(tensor) for (name, tensor), part in zip(tensors.items(), parts, strict=True)}


def fold(model: nn.Module, options: Options, tuned: Rows) -> Tuned:
    """The model's parameters with changes `values` [k] at `indices` [k]; what is named twice adds up."""
    tensors = tensors_of(model, options)
    values = tuned["values"]
    nothing = values.new_zeros(sum(tensor.numel() for tensor in tensors.values()))
    return changed(tensors, nothing.index_add(0, tuned["indices"], values))


class Changed(nn.Module):
    """The model, which is not touched, with a change in its place."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        """model: frozen, without places."""
        super().__init__()
        self.model, self.options = model, options
        self.num_features = model.num_features
        self.sizes = [tensor.numel() for tensor in tensors_of(model, options).values()]
        self.device = next(model.parameters()).device

    def with_change(self, inputs: Tensor, parameters: Tuned) -> Tensor:
        """The model's output [B, D] under these parameters."""
        output: Tensor = functional_call(self.model, parameters, (inputs,), tie_weights=False)
        return output

    def place(self, size: int) -> nn.Parameter:
        """For so many numbers."""
        return nn.Parameter(torch.zeros(size, device=self.device), requires_grad=False)


class Gated(Changed):
    """Every number with a change and a gate, every tensor with a gate."""

    open: Tensor  # expected share of open gates at the batch just run, times the penalty

    def __init__(self, model: nn.Module, options: Options) -> None:
        """Places for changes and gates, each divided by its speed, and for what the noise comes from."""
        super().__init__(model, options)
        self.change, self.gates = self.place(sum(self.sizes)), self.place(sum(self.sizes))
        self.groups = self.place(len(self.sizes))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, D], under gates with noise."""
        # Adam moves what it sees by lr: a factor is a rate of one's own.
        gates = self.options.gate_speed * torch.cat([self.gates, self.groups])
        self.open = self.options.penalty * gates.sigmoid().mean()
        random = torch.Generator(gates.device).manual_seed(int(self.get_buffer("seed")))
        noise = torch.rand(len(gates), generator=random, device=gates.device) * (1 - 2 * NOISE) + NOISE
        change = self.options.change_speed * self.change * by_number(hard(gates + noise.logit()), self.sizes)
        return self.with_change(inputs, changed(tensors_of(self.model, self.options), change))


class Sparse(Changed):
    """k numbers with a change."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        """Places for where and how much."""
        super().__init__(model, options)
        self.values = self.place(kept(sum(self.sizes), options))
        self.register_buffer("indices", torch.arange(len(self.values), dtype=torch.int32, device=self.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, D]."""
        tuned = {"values": self.values, "indices": self.get_buffer("indices")}
        return self.with_change(inputs, fold(self.model, self.options, tuned))


def hard(logits: Tensor) -> Tensor:
    """The gate, 0 to 1, of any logits: of a, or of a with noise."""
    return (STRETCH * logits.sigmoid() + SHIFT).clamp(0, 1)


def by_number(gates: Tensor, sizes: list[int]) -> Tensor:
    """Of gates of all numbers, then of the tensors [P + G]: the product of both for each number [P]."""
    count = sum(sizes)
    of_tensor = gates[count:].repeat_interleave(torch.tensor(sizes, device=gates.device), output_size=count)
    return gates[:count] * of_tensor


def kept(numbers: int, options: Options) -> int:
    """How many of P numbers a task changes: one at least."""
    return max(1, round(options.share * numbers))


def penalty(model: nn.Module) -> Tensor:
    """Of the batch just run."""
    assert isinstance(model, Gated)
    return model.open


def draw(generator: torch.Generator) -> Tuned:
    """The noise of a batch, wherever it is run."""
    return {"seed": torch.randint(2**62, (), generator=generator)}


def start_gates(
    backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator
) -> Tuned:
    """The change of the task before, or none, and all gates open."""
    del images, generator
    places = backbone.pretrained(("change", "gates", "groups"))
    opened = {name: torch.full_like(places[name], OPEN / options.gate_speed) for name in ("gates", "groups")}
    if not previous:
        return {"change": places["change"], **opened}
    values = previous["values"] / options.change_speed
    return {"change": places["change"].index_add(0, previous["indices"], values), **opened}


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """The largest changes under their expected gates, of what the first part has learned; without one, no change."""
    del images, generator
    model = backbone.model
    assert isinstance(model, Sparse)
    if not previous:
        return {"indices": model.get_buffer("indices").cpu().clone()} | backbone.pretrained(["values"])
    gates = options.gate_speed * torch.cat([previous["gates"], previous["groups"]])
    change = options.change_speed * previous["change"] * by_number(hard(gates), model.sizes)
    indices = change.abs().topk(len(model.values)).indices.sort().values
    return {"indices": indices.to(torch.int32), "values": change[indices]}


def means(rows: Rows) -> Rows:
    """Row t: the mean change of tasks 0 to t, each at its own places [T, U]; shorter rows end with changes by 0."""
    found = [_mean(rows["indices"][: task + 1], rows["values"][: task + 1]) for task in range(len(rows["values"]))]
    indices, values = (nn.utils.rnn.pad_sequence([pair[part] for pair in found], batch_first=True) for part in (0, 1))
    return {"indices": indices, "values": values}


def _mean(indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Places and changes [u] of the mean of n tasks' [n, k]."""
    places, position = indices.unique(return_inverse=True)
    total = values.new_zeros(len(places)).index_add(0, position.flatten(), values.flatten())
    return places, total / len(values)


GATES = Kind(
    options=Options,
    start=start_gates,
    sentence="Each number of the backbone has a change and a gate.",
    places=Gated,
    penalty=penalty,
    draw=draw,
)
KIND = Kind(
    options=Options,
    start=start,
    sentence="""Each task changes a small share of the frozen backbone's numbers. Gates with a penalty on each that is
        open find them; then they are tuned on alone.""",
    places=Sparse,
    fold=fold,
    means=means,
    size=0.02,  # a weight of a ViT
    first=GATES,
)
