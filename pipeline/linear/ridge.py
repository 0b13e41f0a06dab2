"""Ridge regression onto one-hot classes that learns task by task and forgets nothing, in any order.

The Gram matrix and the sums per class add up over tasks, so the solution is exactly that of all tasks at once
(recursive least squares; McDonnell et al., RanPAC, NeurIPS 2023).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear.classes import add_columns, numbers
from pipeline.linear.head import Head


class Ridge(NamedTuple):
    """Sums over all samples of C classes in M dimensions, float64. The last column of the features is all ones."""

    gram: Tensor  # [M + 1, M + 1]
    targets: Tensor  # [M + 1, C]


def no_ridge(dim: int) -> Ridge:
    """The sums before the first task."""
    return Ridge(torch.zeros(dim + 1, dim + 1).double(), torch.zeros(dim + 1, 0).double())


def ridge_of(state: Mapping[str, Tensor], dim: int) -> Ridge:
    """The sums in a state, in M dimensions; those of no sample if it is empty."""
    return Ridge(state["gram"], state["targets"]) if state else no_ridge(dim)


def add_task(ridge: Ridge, features: Tensor, labels: Tensor, classes: Tensor | None = None) -> Ridge:
    """Add the classes of one more task. features: [N, M]; labels: [N], from 0 within the task.

    classes: the number of each label [K] among all classes; None: all are new.
    """
    inputs = functional.pad(features.double(), (0, 1), value=1.0)
    one_hot = functional.one_hot(labels).double()
    of_classes = numbers(classes, ridge.targets.shape[1], one_hot.shape[1])
    return Ridge(ridge.gram + inputs.T @ inputs, add_columns(ridge.targets, inputs.T @ one_hot, of_classes))


def solve(ridge: Ridge, penalty: float) -> Head:
    """argmin_B ||X B - Y||^2 + penalty tr(X'X) / (M + 1) ||B||^2: the head of all classes so far.

    The penalty is relative to the mean diagonal of the Gram matrix, so it has the same meaning for any number and scale
    of features.
    """
    solution = solve_at(ridge, float(penalty * ridge.gram.trace() / len(ridge.gram)))
    return Head(solution[:-1].T.float().contiguous(), solution[-1].float())


def solve_at(ridge: Ridge, strength: float) -> Tensor:
    """argmin_B ||X B - Y||^2 + strength ||B||^2, float64, one row per feature."""
    penalised = ridge.gram + strength * torch.eye(len(ridge.gram), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(penalised, ridge.targets)
    return solution
