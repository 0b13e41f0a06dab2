"""`selector: key`: the paper's. One prototype per task, its key; the task of the most similar key wins."""

import torch
from torch import Tensor

from pipeline.selection.prototypes import nearest_prototype, prototype_rows
from pipeline.selection.selector import Selector, TaskQueries
from pipeline.selection.state import State, add_rows


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the key [D] of the task."""
    del generator
    return add_rows(state, prototypes=task.key[None])


SELECTOR = Selector(
    learn,
    nearest_prototype,
    "The task whose key is most similar to the query is selected.",
    by_key=True,
    rows=prototype_rows,
)
