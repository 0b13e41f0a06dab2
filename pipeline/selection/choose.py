"""The values of `selection`: how to choose the tensors under which an image runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.selection.selector import Selector
from pipeline.selection.state import State, num_tasks

SelectionName = Literal["query", "oracle", "latest", "average", "first", "first_and_frozen", "all"]


@dataclass(frozen=True)
class Selection:
    """A way to choose one of the tasks seen so far for each image."""

    # (selector, state, queries [B, D], own tasks [B]) -> task of each image [B]
    choose: Callable[[Selector, State, Tensor, Tensor], Tensor]
    sentence: str  # for the report
    needs_query: bool = False  # whether choosing takes a pass of the frozen backbone
    one_model: bool = False  # whether all images run under the same tensors, so that only one set is kept
    is_real: bool = True  # whether it uses only information available at inference
    averages: bool = False  # whether a step runs under the mean of the tensors of all tasks so far
    is_fixed: bool = False  # whether later tasks change nothing
    with_frozen: bool = False  # whether the frozen backbone's output stands before the tuned one in a feature
    side_by_side: bool = False  # whether a feature holds the outputs under the tensors of every task


def _by_query(selector: Selector, state: State, queries: Tensor, own_tasks: Tensor) -> Tensor:
    del own_tasks
    return selector.scores(state, queries).argmax(1)


def _own(selector: Selector, state: State, queries: Tensor, own_tasks: Tensor) -> Tensor:
    del selector, state, queries
    return own_tasks


def _newest(selector: Selector, state: State, queries: Tensor, own_tasks: Tensor) -> Tensor:
    del selector, queries
    return torch.full_like(own_tasks, num_tasks(state) - 1)


def _first(selector: Selector, state: State, queries: Tensor, own_tasks: Tensor) -> Tensor:
    del selector, state, queries
    return torch.zeros_like(own_tasks)


class Choice(NamedTuple):
    """A selection, and everything it needs to choose."""

    selection: Selection
    selector: Selector
    state: State  # the selector's, after T tasks

    def tasks(self, queries: Tensor, own_tasks: Tensor) -> Tensor:
        """The zero-based task of each image [B]: from its query [B, D], or from its own task [B]."""
        return self.selection.choose(self.selector, self.state, queries, own_tasks)


SELECTIONS: Mapping[SelectionName, Selection] = {
    "query": Selection(
        _by_query,
        """A selector picks a task for each image, which then runs under the parameters tuned by that task. The
        classifier has to cope with the images that are sent to the wrong task.""",
        needs_query=True,
    ),
    "oracle": Selection(
        _own,
        """Each image runs under the parameters tuned by its true task. That task is unknown at inference, so this is an
        upper bound for every selector.""",
        is_real=False,
    ),
    "latest": Selection(
        _newest,
        """Every image runs under the parameters tuned by the newest task, in one pass. Nothing can be selected wrongly,
        but each task moves the features of all earlier classes.""",
        one_model=True,
    ),
    "average": Selection(
        _newest,
        """Every image runs under the mean of the parameters tuned by all tasks, in one pass. Nothing can be selected
        wrongly, and the mean contains what every task has learned. Task t moves the mean by only a t-th part, so
        features of old classes drift less and less.""",
        one_model=True,
        averages=True,
    ),
    "first": Selection(
        _first,
        """Every image runs under the parameters tuned by the first task, in one pass. Later tasks tune nothing, so no
        feature ever changes.""",
        one_model=True,
        is_fixed=True,
    ),
    "first_and_frozen": Selection(
        _first,
        """Every image runs through the frozen backbone and under the parameters tuned by the first task; the two
        outputs
        side by side are its feature. Later tasks tune nothing, so no feature ever changes.""",
        one_model=True,
        is_fixed=True,
        with_frozen=True,
    ),
    "all": Selection(
        _newest,
        """Every image runs under the parameters of every task, in one pass per task. The outputs, each of length 1 and
        side by side, are its feature. Nothing is selected.""",
        side_by_side=True,
    ),
}
