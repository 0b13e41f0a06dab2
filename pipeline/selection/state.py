"""Building blocks of selectors: rows that belong to tasks, and scores of tasks from scores of rows."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]  # a selector's; `task` [R] is the task of each of R rows; empty before the first task


def num_tasks(state: State) -> int:
    """The number of tasks that a state has learned."""
    return int(state["task"].max()) + 1 if state else 0


def with_task(state: State, rows: int) -> Tensor:
    """The task of each row after the newest task adds `rows` rows: [R + rows]."""
    new = torch.full((rows,), num_tasks(state))
    return torch.cat([state["task"], new]) if state else new


def add_rows(state: State, **rows: Tensor) -> dict[str, Tensor]:
    """The state after adding a new task's rows to these tensors, and their task."""
    count = len(next(iter(rows.values())))
    longer = {name: torch.cat([state[name], values]) if state else values for name, values in rows.items()}
    return longer | {"task": with_task(state, count)}


def best_of_tasks(scores: Tensor, task: Tensor) -> Tensor:
    """The highest score of each task: scores [B, R] of rows that belong to tasks [R] -> [B, T]."""
    best = torch.full((len(scores), int(task.max()) + 1), -math.inf, dtype=scores.dtype)
    return best.scatter_reduce(1, task.expand(len(scores), -1), scores, "amax")


def likelihood_of_tasks(scores: Tensor, task: Tensor) -> Tensor:
    """The log of the sum of each task's likelihoods, given as logarithms: [B, R] -> [B, T]."""
    top = scores.max(1, keepdim=True).values
    sums = torch.zeros(len(scores), int(task.max()) + 1, dtype=scores.dtype)
    return sums.index_add_(1, task, (scores - top).exp()).log() + top
