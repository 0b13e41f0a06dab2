"""`selector: entropy`: the task whose own head is most certain, after one pass per task under that task's tensors.

This is the baseline of arXiv 2011.04783. If nothing is tuned, all passes are the same and the key selects.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.selection.prototypes import nearest_prototype
from pipeline.selection.selector import Selector, TaskQueries
from pipeline.selection.state import State, add_rows


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the key [D] of the task."""
    del generator
    return add_rows(state, prototypes=task.key[None])


def lowest_entropy(logits: Sequence[Tensor]) -> Tensor:
    """The task [B] whose own head is most certain, from each task's logits over its classes [B, K_t].

    Entropies are compared as shares of their maximum, so that tasks of unequal size are comparable. The head of a
    single class is certain of any image, which means nothing, so it counts as uncertain.
    """
    entropies = []
    for of_task in logits:
        if of_task.shape[1] == 1:
            entropies.append(torch.ones(len(of_task)))
            continue
        log_share = of_task.log_softmax(1)
        entropy = -(log_share.exp() * log_share).sum(1)
        entropies.append(entropy / math.log(of_task.shape[1]))
    return torch.stack(entropies, dim=1).argmin(1)


SELECTOR = Selector(
    learn,
    nearest_prototype,
    "The image runs once under the parameters of each task; the task whose own head is most certain is selected.",
    choose_by_outputs=lowest_entropy,
)
