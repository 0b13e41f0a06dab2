"""`selector: lda`: class Gaussians with one covariance; the most likely task wins.

Queries of several vectors: the covariance is shrunk towards the mean variance of each vector, as for classifiers.
"""

import torch
from torch import Tensor

from pipeline.linear import gaussians
from pipeline.linear.gaussians import gaussians_of
from pipeline.linear.head import Head
from pipeline.selection.selector import Rows, Selector, TaskQueries
from pipeline.selection.state import State, likelihood_of_tasks, with_task


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep counts and means of the classes, and the scatter of all classes."""
    del generator
    before = gaussians_of(state, task.queries.shape[1])
    after = gaussians.add_classes(before, task.queries, task.labels)
    learned = after._asdict() | {"task": with_task(state, len(after.means) - len(before.means))}
    return learned if task.vectors == 1 else learned | {"vectors": torch.tensor(task.vectors)}


def scores(state: State, queries: Tensor) -> Tensor:
    """log p(task | q) up to a constant, with all classes equally likely: [B, T]."""
    return likelihood_of_tasks(_discriminant(state).logits(queries), state["task"])


def rows(state: State) -> Rows:
    """The same in linear form: one row per class."""
    head = _discriminant(state)
    return Rows(head.weight, head.bias, state["task"], sums=True)


def _discriminant(state: State) -> Head:
    vectors = int(state.get("vectors", torch.tensor(1)))
    return gaussians.linear_discriminant(gaussians_of(state, state["means"].shape[1]), gaussians.SHRINKAGE, vectors)


SELECTOR = Selector(learn, scores, "The task whose classes make the query most likely is selected.", rows=rows)
