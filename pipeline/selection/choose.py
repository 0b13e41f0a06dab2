"""How the tensors that an image runs under are chosen: the values of `selection`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.selection.selector import Selector
from pipeline.selection.state import State, num_tasks

SelectionName = Literal["query", "oracle", "latest", "average"]


@dataclass(frozen=True)
class Selection:
    """A way to choose one of the tasks seen so far for each image."""

    # (selector, state, queries [B, D], own tasks [B]) -> task of each image [B]
    choose: Callable[[Selector, State, Tensor, Tensor], Tensor]
    sentence: str  # for the report
    needs_query: bool = False  # whether choosing takes a pass of the frozen backbone
    one_model: bool = False  # whether all images run under the same tensors, so that a single set is kept
    is_real: bool = True  # whether it knows only what is known at inference
    averages: bool = False  # whether the tensors of a step are the mean of those that the tasks so far have tuned


def _by_query(selector: Selector, state: State, queries: Tensor, own_tasks: Tensor) -> Tensor:
    del own_tasks
    return selector.scores(state, queries).argmax(1)


def _own(selector: Selector, state: State, queries: Tensor, own_tasks: Tensor) -> Tensor:
    del selector, state, queries
    return own_tasks


def _newest(selector: Selector, state: State, queries: Tensor, own_tasks: Tensor) -> Tensor:
    del selector, queries
    return torch.full_like(own_tasks, num_tasks(state) - 1)


class Choice(NamedTuple):
    """A selection and all that it chooses by."""

    selection: Selection
    selector: Selector
    state: State  # of the selector, after T tasks

    def tasks(self, queries: Tensor, own_tasks: Tensor) -> Tensor:
        """The zero-based task of each image [B]: from its query [B, D], or from its own task [B]."""
        return self.selection.choose(self.selector, self.state, queries, own_tasks)


SELECTIONS: Mapping[SelectionName, Selection] = {
    "query": Selection(
        _by_query,
        """A selector names a task for each image, which then runs under what that task has tuned. The classifier has to
        cope with the images that are sent to the wrong task.""",
        needs_query=True,
    ),
    "oracle": Selection(
        _own,
        """Each image runs under what its true task has tuned. Nobody knows that task at inference: this is an upper
        bound for every selector.""",
        is_real=False,
    ),
    "latest": Selection(
        _newest,
        """Every image runs under what the newest task has tuned, in one pass. Nothing can be selected wrongly, but
        each task moves the features of all earlier classes.""",
        one_model=True,
    ),
    "average": Selection(
        _newest,
        """Every image runs under the mean of what all tasks have tuned, in one pass. Nothing can be selected wrongly,
        the knowledge of every task is in it, and task t moves the mean by a t-th part only. So features of old classes
        drift less and less.""",
        one_model=True,
        averages=True,
    ),
}
