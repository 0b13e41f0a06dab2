"""Scores by prototypes: the similarity of a query to the nearest direction that a task has stored."""

from torch import Tensor
from torch.nn import functional

from pipeline.selection.key import cosine
from pipeline.selection.selector import Rows
from pipeline.selection.state import State, best_of_tasks


def nearest_prototype(state: State, queries: Tensor) -> Tensor:
    """The cosine of queries [B, D] to the nearest of each task's `prototypes` [R, D]: [B, T]."""
    return best_of_tasks(cosine(queries, state["prototypes"]), state["task"])


def prototype_rows(state: State) -> Rows:
    """The same in linear form."""
    prototypes = functional.normalize(state["prototypes"], dim=1)
    return Rows(prototypes, prototypes.new_zeros(len(prototypes)), state["task"], directions=True)
