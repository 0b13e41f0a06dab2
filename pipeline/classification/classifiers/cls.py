"""`classifier: cls`: Complementary Learning Subnetworks (arXiv 2306.11967), in closed form, class by class.

Features a [N, D] become H = ReLU(a W + b) with fixed random W, b from U(-1, 1). At task t, the weights of class q are
pulled towards the optima B*_i of earlier tasks where their Fisher information F_i is large, and towards their previous
values:

    B_q = (H'H + sum_{i<t} lam F_{i,q} + I)^-1 (H'y_q + sum_{i<t} lam F_{i,q} * B*_{i,q} + B_prev,q)

B*_i = pinv(H'H) H'Y is the optimum of task i alone, and B that of the first task. F_i is diagonal. As in the authors'
code it is the number N_i of task i's images times the squared gradient of their mean cross-entropy at B*_i. `images`
takes the empirical Fisher information in its place, the sum of the squared gradients of single images. It is never
smaller, and up to N_i times as large where gradients cancel, so that old rows hardly move.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear.classes import numbers
from pipeline.linear.head import Head, random_features
from pipeline.params import Record

UNITS = 900
STRENGTH = 3000.0  # lam
Fisher = Literal["mean", "images"]


class Options(Record):
    """The gradient whose square is the Fisher information."""

    fisher: Fisher = "mean"


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the task to the closed form, on random features. The first task draws their layer."""
    layer = hidden_layer(features.own.shape[1], training.generator)
    projection = state["projection"] if state else layer
    known = {name: state[name] for name in ("weights", "anchor", "pull")} if state else {}
    options: Options = training.options or Options()
    units = random_features(features.own, projection)
    after = add_task(known, units, features.labels, features.classes, fisher=options.fisher)
    weight = after["weights"].T.float().contiguous()
    return after | {"projection": projection}, Head(weight, torch.zeros(len(weight)), projection)


def hidden_layer(dim: int, generator: torch.Generator) -> Tensor:
    """Fixed random weights and, in the last row, biases: [D + 1, UNITS], from U(-1, 1)."""
    return 2 * torch.rand(dim + 1, UNITS, generator=generator) - 1


def add_task(
    state: State, inputs: Tensor, labels: Tensor, classes: Tensor | None = None, *, fisher: Fisher = "mean"
) -> dict[str, Tensor]:
    """The state after one more task: `weights` B [M, C], `anchor` sum lam F [M, C], `pull` sum lam F * B* [M, C].

    inputs: H [N, M]; labels: [N], from 0 within the task. Classes of other tasks have y = 0 in it. classes: the number
    of each label [K] among all classes; None: all are new.
    """
    units = inputs.double()
    one_hot = functional.one_hot(labels).double()
    gram, size = units.T @ units, units.shape[1]
    inverse = torch.linalg.pinv(gram, hermitian=True)
    if not state:
        optimum = inverse @ units.T @ one_hot
        anchor = STRENGTH * _fisher(units, one_hot, optimum, fisher)
        return {"weights": optimum, "anchor": anchor, "pull": anchor * optimum}
    old = state["weights"].shape[1]
    of_classes = numbers(classes, old, one_hot.shape[1])
    new = int((of_classes >= old).sum())
    padded = {name: functional.pad(tensor, (0, new)) for name, tensor in state.items()}
    one_hot = torch.zeros(len(one_hot), old + new, dtype=one_hot.dtype).index_copy_(1, of_classes, one_hot)
    right = units.T @ one_hot + padded["pull"] + padded["weights"]
    identity = torch.eye(size, dtype=torch.float64)
    columns = [
        torch.linalg.solve(gram + identity + padded["anchor"][:, c].diag(), right[:, c]) for c in range(old + new)
    ]
    optimum = inverse @ units.T @ one_hot
    anchor = STRENGTH * _fisher(units, one_hot, optimum, fisher)
    return {
        "weights": torch.stack(columns, dim=1),
        "anchor": padded["anchor"] + anchor,
        "pull": padded["pull"] + anchor * optimum,
    }


def _fisher(units: Tensor, one_hot: Tensor, weights: Tensor, fisher: Fisher) -> Tensor:
    """N times the squared gradient of the mean cross-entropy, or the sum of those of the images: [M, C]."""
    logits = units @ weights
    if logits.shape[1] == 1:  # a softmax over one class has no gradient: add "none" with a logit of 0
        logits, one_hot = functional.pad(logits, (0, 1)), functional.pad(one_hot, (0, 1))
    errors = (logits.softmax(1) - one_hot)[:, : weights.shape[1]]  # [N, C]
    if fisher == "images":
        return units.square().T @ errors.square()
    return (units.T @ errors).square() / len(units)


CLASSIFIER = Classifier(
    learn,
    "A closed form that holds the rows of earlier tasks in place where their Fisher information is large.",
    options=Options,
    draws_layer=True,
)
