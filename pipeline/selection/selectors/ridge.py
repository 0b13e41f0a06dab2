"""`selector: ridge`: a recursive ridge regression onto classes; the task with the highest response wins."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear import ridge
from pipeline.linear.ridge import ridge_of
from pipeline.selection.selector import Rows, Selector, TaskQueries
from pipeline.selection.state import State, best_of_tasks, with_task

PENALTY = 0.1


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the sums of the regression on the directions of the queries."""
    del generator
    before = ridge_of(state, task.queries.shape[1])
    after = ridge.add_task(before, functional.normalize(task.queries, dim=1), task.labels)
    return after._asdict() | {"task": with_task(state, after.targets.shape[1] - before.targets.shape[1])}


def scores(state: State, queries: Tensor) -> Tensor:
    """The highest response among the classes of each task: [B, T]."""
    head = ridge.solve(ridge_of(state, queries.shape[1]), PENALTY)
    return best_of_tasks(head.logits(functional.normalize(queries, dim=1)), state["task"])


def rows(state: State) -> Rows:
    """The same in linear form: one row per class."""
    head = ridge.solve(ridge_of(state, len(state["gram"]) - 1), PENALTY)
    return Rows(head.weight, head.bias, state["task"], directions=True)


SELECTOR = Selector(
    learn, scores, "The task of the class with the highest ridge regression response is selected.", rows=rows
)
