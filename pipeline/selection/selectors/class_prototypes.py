"""`selector: class_prototypes`: one key per class; the task of the most similar key wins."""

import torch
from torch import Tensor

from pipeline.selection.key import closed_form_key
from pipeline.selection.prototypes import nearest_prototype, prototype_rows
from pipeline.selection.selector import Selector, TaskQueries
from pipeline.selection.state import State, add_rows


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the key of each class."""
    del generator
    keys = [closed_form_key(task.queries[task.labels == c]) for c in range(int(task.labels.max()) + 1)]
    return add_rows(state, prototypes=torch.stack(keys))


SELECTOR = Selector(
    learn, nearest_prototype, "The task with the most similar class mean is selected.", rows=prototype_rows
)
