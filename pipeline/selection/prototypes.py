"""Scores by prototypes: the similarity of a query to the nearest direction that a task has stored."""

from torch import Tensor

from pipeline.selection.key import cosine
from pipeline.selection.state import State, best_of_tasks


def nearest_prototype(state: State, queries: Tensor) -> Tensor:
    """The cosine of queries [B, D] to the nearest of each task's `prototypes` [R, D]: [B, T]."""
    return best_of_tasks(cosine(queries, state["prototypes"]), state["task"])
