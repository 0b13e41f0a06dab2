"""A linear classifier, on features or on random features of them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Head(NamedTuple):
    """A linear classifier. A class may have several rows, one per task that it came in; the best counts."""

    weight: Tensor  # [R, D], or [R, M] behind a projection
    bias: Tensor  # [R]
    projection: Tensor | None = None  # [D + 1, M]
    classes: Tensor | None = None  # [R] class of each row; None: row c is that of class c
    tasks: Tensor | None = None  # [R] task that each row was learned in; None: a row belongs to all tasks

    def logits(self, features: Tensor) -> Tensor:
        """Logits of features: [B, D] -> [B, R]."""
        inputs = features if self.projection is None else random_features(features, self.projection)
        return functional.linear(inputs, self.weight, self.bias)

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
        classes, tasks = (None if of_rows is None else of_rows[start:end] for of_rows in (self.classes, self.tasks))
        return Head(self.weight[start:end], self.bias[start:end], self.projection, classes, tasks)


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
