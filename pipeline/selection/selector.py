"""Selects the task of an image: the contract that every file in `pipeline/selection/selectors` fulfils.

A selector learns task by task from queries and labels, and stores no sample. Its scores say how well each task suits a
query; the highest wins. Scores of old tasks may change when a new task arrives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.parts import find_module
from pipeline.selection.state import State


class TaskQueries(NamedTuple):
    """The frozen backbone's outputs for the training images of one task."""

    queries: Tensor  # [N, D]
    labels: Tensor  # [N] from 0 within the task
    key: Tensor  # [D]
    vectors: int = 1  # of how many vectors a query consists


class Rows(NamedTuple):
    """The scores of a selector as rows that belong to tasks, linear in the query: what a graph of ONNX can hold."""

    weight: Tensor  # [R, D]
    bias: Tensor  # [R]
    task: Tensor  # [R]
    directions: bool = False  # the rows see the query's direction, not its length
    sums: bool = False  # a task scores the sum of its rows' likelihoods; else it scores its highest row


@dataclass(frozen=True)
class Selector:
    """A way to tell tasks apart."""

    learn: Callable[[State, TaskQueries, torch.Generator], dict[str, Tensor]]  # returns the state after one more task
    scores: Callable[[State, Tensor], Tensor]  # (state, queries [B, D]) -> scores of each task [B, T]
    sentence: str  # for the report: how it selects
    by_key: bool = False  # whether the paper's keys choose; then similar keys show which tasks are confused
    # For a selector that judges by outputs instead of queries: the logits [B, K_t] of each task's own auxiliary head
    # under that task's tensors -> the task of each image [B]. It costs T passes per image.
    choose_by_outputs: Callable[[Sequence[Tensor]], Tensor] | None = None
    rows: Callable[[State], Rows] | None = None  # the scores in linear form; None: they have none


def find_selector(name: str) -> Selector:
    """The selector of this name. Raises UserError if there is none."""
    selector: Selector = find_module("selector", name).SELECTOR
    return selector
