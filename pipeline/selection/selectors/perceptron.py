"""`selector: perceptron`: one layer over the tasks, retrained on pseudo-queries after each task.

PCR of arXiv 2011.04783 replays stored features. Here they are drawn from the class Gaussians of all tasks so far.
Their shared covariance is shrunk towards one mean variance, also where a query consists of several vectors.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear import gaussians
from pipeline.linear.gaussians import gaussians_of
from pipeline.linear.head import Head
from pipeline.linear.softmax import train_softmax
from pipeline.selection.selector import Rows, Selector, TaskQueries
from pipeline.selection.state import State, with_task

PSEUDO_QUERIES = 64  # per class


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep class statistics, and the layer trained on samples drawn from them."""
    before = gaussians_of(state, task.queries.shape[1])
    after = gaussians.add_classes(before, task.queries, task.labels)
    of_task = with_task(state, len(after.means) - len(before.means))
    drawn, classes = gaussians.sample(after, PSEUDO_QUERIES, gaussians.SHRINKAGE, generator)
    mean, deviation = drawn.mean(0), drawn.std(0)
    inputs, tasks = (drawn - mean) / deviation, int(of_task.max()) + 1
    start = Head(torch.zeros(tasks, inputs.shape[1]), torch.zeros(tasks))
    head = train_softmax(start, inputs[None], of_task[classes], batch_size=128, lr=0.01, epochs=20, generator=generator)
    scaled = head.weight / deviation
    return after._asdict() | {"task": of_task, "weight": scaled, "bias": head.bias - scaled @ mean}


def scores(state: State, queries: Tensor) -> Tensor:
    """The layer's logits: [B, T]."""
    return functional.linear(queries, state["weight"], state["bias"])


def rows(state: State) -> Rows:
    """The same in linear form: one row per task."""
    return Rows(state["weight"], state["bias"], torch.arange(len(state["bias"])))


SELECTOR = Selector(
    learn, scores, "A one-layer perceptron trained on samples of class statistics selects the task.", rows=rows
)
