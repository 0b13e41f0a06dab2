"""Tensors that grow by each task's rows and carry all earlier rows forward.

A DVC stage cannot depend on a list of files whose length is a parameter. So each task's file holds the rows of all
tasks so far, and the next task reads only that file. A row never changes once it is written. Before the first task
there are no tensors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def append_rows(before: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows so far, [n, ...] per tensor, followed by the new task's rows, [m, ...]."""
    return {name: torch.cat([before[name], rows]) if before else rows for name, rows in new.items()}


def row(bank: Mapping[str, Tensor], task: int) -> dict[str, Tensor]:
    """The row of one task, if each task adds a single row (its LayerNorms): [T, D] -> [D]."""
    return {name: rows[task] for name, rows in bank.items()}


def newest_repeated(bank: Mapping[str, Tensor], tasks: int) -> dict[str, Tensor]:
    """One row per task, all of them views of the only row: for a single model that serves all tasks."""
    return {name: rows.expand(tasks, *rows.shape[1:]) for name, rows in bank.items()}


def running_means(bank: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Row t is the mean of rows 0 to t: one model for all tasks so far. Task t moves it by only 1/t of its own change.

    Weights tuned from the same start may be averaged (Wortsman et al., Model soups, arXiv 2203.05482).
    """
    return {name: rows.cumsum(0) / _counts(rows) for name, rows in bank.items()}


def scaled(bank: Mapping[str, Tensor], start: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """start + scale (row - start) for every row [D]: task arithmetic, Ilharco et al., arXiv 2212.04089.

    start: [D] per tensor. A scale of 0 gives the start, bit by bit.
    """
    return {name: start[name] + scale * (rows - start[name]) for name, rows in bank.items()}


def _counts(rows: Tensor) -> Tensor:
    return torch.arange(1, len(rows) + 1).view(-1, *[1] * (rows.ndim - 1))


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
