"""A classifier on features or on random features of them: linear, and optionally with a quadratic part per class."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_BATCH = 512  # features whose quadratic parts are computed at once


class Head(NamedTuple):
    """A linear classifier. A class may have several rows, one per task that it came in; the best counts.

    With factors, half of |F x - o|^2 is added to the logit of each row, block by block. With `unit`, x is the direction
    of a feature. A negative quadratic form, too, is then a positive one: -x' P x = |F x|^2 - c for F' F = c I - P.
    """

    weight: Tensor  # [R, D], or [R, M] behind a projection
    bias: Tensor  # [R]
    projection: Tensor | None = None  # [D + 1, M]
    classes: Tensor | None = None  # [R] class of each row; None: row c is that of class c
    tasks: Tensor | None = None  # [R] task that each row was learned in; None: a row belongs to all tasks
    factors: Tensor | None = None  # [R, r, D]
    offsets: Tensor | None = None  # [R, K, r], for each of the K blocks into which D is cut
    unit: Tensor | None = None  # [R], all true: features are scaled to length 1 first; None: they are not

    def logits(self, features: Tensor) -> Tensor:
        """Logits of features: [B, D] -> [B, R]."""
        inputs = self.inputs(features)
        logits = functional.linear(inputs, self.weight, self.bias)
        if self.factors is None or self.offsets is None or not len(inputs):
            return logits
        return logits + torch.cat([lengths(part, self.factors, self.offsets) for part in inputs.split(_BATCH)]) / 2

    def inputs(self, features: Tensor) -> Tensor:
        """What the rows are multiplied with: [B, D] -> [B, D], or [B, M] behind a projection."""
        if self.unit is not None:
            features = functional.normalize(features, dim=1)
        return features if self.projection is None else random_features(features, self.projection)

    def scores(self, features: Tensor, competing: Tensor | None = None) -> Tensor:
        """The score of each class: [B, D] -> [B, C]. competing: [B, R] which rows count; -inf for classes without."""
        logits = self.logits(features)
        if competing is not None:
            logits = logits.masked_fill(~competing, -torch.inf)
        if self.classes is None:
            return logits
        best = torch.full((len(logits), int(self.classes.max()) + 1), -torch.inf, dtype=logits.dtype)
        return best.scatter_reduce(1, self.classes.expand(len(logits), -1), logits, "amax")

    def rows(self, start: int, end: int) -> "Head":
        """The head with some of the rows."""
        return self._replace(**{name: tensor[start:end] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that have an entry per row, by name."""
        named = {name: tensor for name, tensor in self._asdict().items() if name != "projection"}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def lengths(inputs: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """The squared lengths of F x - o, summed over blocks: [B, D] -> [B, R]."""
    rows, blocks, rank = offsets.shape
    of_blocks = zip(inputs.chunk(blocks, 1), factors.chunk(blocks, 2), offsets.unbind(1), strict=True)
    total = torch.zeros(())  # an export to ONNX must not count the inputs here
    for part, factor, offset in of_blocks:
        along = part @ factor.flatten(0, 1).T - offset.flatten()
        total = total + along.square().unflatten(1, (rows, rank)).sum(2)
    return total


def joined(heads: Sequence[Head]) -> Head:
    """The head on features side by side whose logits are the sum of those of these heads, one for each part."""
    first = heads[0]
    weight, bias = torch.cat([head.weight for head in heads], 1), torch.stack([head.bias for head in heads]).sum(0)
    whole = first._replace(weight=weight, bias=bias)
    if first.factors is None:
        return whole
    return whole._replace(
        factors=torch.cat([head.tensors()["factors"] for head in heads], 2),
        offsets=torch.cat([head.tensors()["offsets"] for head in heads], 1),
    )


def widened(head: Head, dim: int) -> Head:
    """The head [C, D] for longer features that begin with the D numbers it knows: [C, dim]. It ignores the others."""
    return head._replace(weight=functional.pad(head.weight, (0, dim - head.weight.shape[1])))


def task_heads(rows: Mapping[str, Tensor]) -> list[Head]:
    """One head per task, from rows `weight` [R, D], `bias` [R] and their `task` [R]. No heads from no rows."""
    if not rows:  # nothing is tuned
        return []
    of_task = [rows["task"] == task for task in range(int(rows["task"].max()) + 1)]
    return [Head(rows["weight"][mask], rows["bias"][mask]) for mask in of_task]


def random_features(features: Tensor, projection: Tensor) -> Tensor:
    """ReLU of a fixed random layer with its biases in the last row: [B, D] x [D + 1, M] -> [B, M]."""
    return (features @ projection[:-1] + projection[-1]).relu()


def new_head(classes: int, dim: int, generator: torch.Generator) -> Head:
    """Truncated normal weights of standard deviation 0.02 and zero bias, as in the paper's code."""
    weight = nn.init.trunc_normal_(torch.empty(classes, dim), std=0.02, generator=generator)
    return Head(weight, torch.zeros(classes))
