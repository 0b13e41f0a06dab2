"""Which task an image gets: the contract that every file in `pipeline/selection/selectors` fulfils.

A selector learns task by task, from queries and labels alone, without a stored sample. Its scores say how well each
task suits a query; the highest wins. Scores of old tasks may change when a task arrives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.parts import find_module
from pipeline.selection.state import State


class TaskQueries(NamedTuple):
    """The training images of one task as the frozen backbone sees them."""

    queries: Tensor  # [N, D]
    labels: Tensor  # [N] from 0 within the task
    key: Tensor  # [D]


@dataclass(frozen=True)
class Selector:
    """How tasks are told apart."""

    learn: Callable[[State, TaskQueries, torch.Generator], dict[str, Tensor]]  # the state after one more task
    scores: Callable[[State, Tensor], Tensor]  # of queries [B, D], for each task: [B, T]
    sentence: str  # for the report: how it selects
    by_key: bool = False  # whether the paper's keys choose, so that their likeness says which tasks are confused
    # For a selector that judges by outputs instead of queries: the task [B] of each image, from the logits that each
    # task's own auxiliary head gives under that task's tensors: [B, K_t] each. It costs T passes per image.
    choose_by_outputs: Callable[[Sequence[Tensor]], Tensor] | None = None


def find_selector(name: str) -> Selector:
    """The selector of this name. Raises UserError where there is none."""
    selector: Selector = find_module("selector", name).SELECTOR
    return selector
