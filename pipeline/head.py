"""A linear classifier: how it starts, and what it says."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Head(NamedTuple):
    """A linear classifier."""

    weight: Tensor  # [C, D]
    bias: Tensor  # [C]

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return functional.linear(features, self.weight, self.bias)

    def rows(self, start: int, end: int) -> "Head":
        """Some of its rows."""
        return Head(self.weight[start:end], self.bias[start:end])


def new_head(classes: int, dim: int, generator: torch.Generator) -> Head:
    """Truncated normal weights of deviation 0.02 and no bias, as the paper's code initialises its heads."""
    weight = nn.init.trunc_normal_(torch.empty(classes, dim), std=0.02, generator=generator)
    return Head(weight, torch.zeros(classes))
