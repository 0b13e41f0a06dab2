"""Softmax rows, task by task, including the row of a class that arrives alone in its task.

A softmax over a single class is always 1, so no gradient would train its row. The row is computed instead, to match
rows that are trained together: they measure from the middle between their classes. It points from the centre c of all
class means to the mean m of its class, is as long as the trained rows are on average, and gives 0 at the centre:

    w = mean ||w_trained|| (m - c) / ||m - c||,   b = -w' c

Centre and length depend on all classes so far, so this row is computed again after every task.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import State, TaskFeatures
from pipeline.linear.classes import numbers
from pipeline.linear.head import Head

_OWNERS = ("classes", "tasks")


def learn(state: State, features: TaskFeatures, train: Callable[[], Head]) -> tuple[dict[str, Tensor], Head]:
    """State and head with one more task, whose rows `train` makes. A class that comes again gets one row more.

    The state also has the class and the task of each row: `classes` and `tasks` [C].
    """
    before = {name: tensor for name, tensor in state.items() if name not in _OWNERS}
    after, head = add_task(before, *features.samples(), train)
    known = state["classes"] if state else torch.empty(0, dtype=torch.int64)
    new = len(head.bias) - len(known)
    classes = torch.cat([known, numbers(features.classes, _count(known), new)])
    tasks = torch.cat([state["tasks"] if state else known, torch.full((new,), features.task)])
    return after | {"classes": classes, "tasks": tasks}, head._replace(classes=classes.clone(), tasks=tasks.clone())


def _count(classes: Tensor) -> int:
    return int(classes.max()) + 1 if len(classes) else 0


def add_task(
    state: Mapping[str, Tensor], features: Tensor, labels: Tensor, train: Callable[[], Head]
) -> tuple[dict[str, Tensor], Head]:
    """State and head with one more task. features: [N, D]; labels: [N], from 0 within the task; train makes its rows.

    The state has `weight` [C, D], which holds the mean of a lone class; `bias` [C]; `centre` [D], the mean of the class
    means; and `lone` [C] if any class is alone.
    """
    sums = torch.zeros(int(labels.max()) + 1, features.shape[1]).index_add_(0, labels, features)
    means = sums / labels.bincount()[:, None]
    is_alone = len(means) == 1
    new = Head(means, torch.zeros(1)) if is_alone else train()
    known = len(state["bias"]) if state else 0
    lone = torch.full((len(means),), is_alone)
    weight, bias, centre = new.weight.clone(), new.bias.clone(), means.mean(0)
    if state:
        weight, bias = torch.cat([state["weight"], weight]), torch.cat([state["bias"], bias])
        centre = (known * state["centre"] + means.sum(0)) / (known + len(means))
        lone = torch.cat([state.get("lone", torch.zeros(known, dtype=torch.bool)), lone])
    after = {"weight": weight, "bias": bias, "centre": centre} | ({"lone": lone} if bool(lone.any()) else {})
    return after, _head(after)


def _head(state: Mapping[str, Tensor]) -> Head:
    weight, bias = state["weight"].clone(), state["bias"].clone()
    if "lone" in state:
        lone, centre = state["lone"], state["centre"]
        length = 1.0 if bool(lone.all()) else float(weight[~lone].norm(dim=1).mean())
        weight[lone] = length * functional.normalize(weight[lone] - centre, dim=1)
        bias[lone] = -weight[lone] @ centre
    return Head(weight, bias)
