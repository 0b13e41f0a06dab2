"""A linear classifier, on features or on random features of them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Head(NamedTuple):
    """A linear classifier."""

    weight: Tensor  # [C, D], or [C, M] behind a projection
    bias: Tensor  # [C]
    projection: Tensor | None = None  # [D + 1, M]

    def logits(self, features: Tensor) -> Tensor:
        """Logits of features: [B, D] -> [B, C]."""
        inputs = features if self.projection is None else random_features(features, self.projection)
        return functional.linear(inputs, self.weight, self.bias)

    def rows(self, start: int, end: int) -> "Head":
        """The head with some of the rows."""
        return self._replace(weight=self.weight[start:end], bias=self.bias[start:end])


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
