"""The rows of softmax regression task by task, those of a class that comes alone among them.

A softmax over one class is 1 whatever its row, so nothing would train that row. Among rows w, b of classes trained side
by side, which measure from the middle between them, it gets what they come to without a gradient: from the centre c of
all class means to its own mean m, as long as the others are on average, and nought at the centre:

    w = mean ||w_trained|| (m - c) / ||m - c||,   b = -w' c

Centre and length are those of the classes so far, so this row alone is made anew after every task.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear.head import Head


def add_task(
    state: Mapping[str, Tensor], features: Tensor, labels: Tensor, train: Callable[[], Head]
) -> tuple[dict[str, Tensor], Head]:
    """State and head with one more task: features [N, D]; labels [N], from 0 within the task; train: its rows.

    The state has `weight` [C, D], of lone classes their means; `bias` [C]; `centre` [D], the mean of the class means;
    and `lone` [C] where any class is.
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
