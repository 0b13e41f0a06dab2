"""Corrections at test time that reconsider a prediction from its logits alone.

Adaptive Retention & Correction (arXiv 2405.14318) has two halves. `arc` keeps no state: all tasks vote on an uncertain
prediction of the newest task. With `arc_retention` the head also learns from the unlabelled test images one by one.
This is transductive, so the report marks its row.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pipeline.linear.head import Head
from pipeline.params import Record, Seed
from pipeline.seeds import generator as seeded

Correction = Literal["none", "arc", "arc_retention", "rematch"]


class CorrectionParams(Record):
    """Which correction, and its strength."""

    seed: Seed
    correction: Correction
    arc_gamma: float = Field(gt=0)
    arc_temperature: float = Field(ge=1)
    arc_beta: float = Field(ge=0, le=1)
    arc_lr: float = Field(ge=0, le=1000)


def reconsidered_logits(logits: Tensor, class_tasks: Tensor, params: CorrectionParams) -> Tensor:
    """Logits [B, C] after the chosen correction; the highest is the answer. class_tasks: [C]."""
    if params.correction not in ("arc", "arc_retention"):
        return logits
    return arc_logits(logits, class_tasks, gamma=params.arc_gamma, temperature=params.arc_temperature)


def retained(head: Head, features: Tensor, class_tasks: Tensor, params: CorrectionParams, step: int) -> Head:
    """The head of a zero-based step. With arc_retention it has followed the step's test image features [B, D]."""
    if params.correction != "arc_retention":
        return head
    random = seeded(params.seed, "evaluate", step)
    return retained_head(head, features, class_tasks, beta=params.arc_beta, lr=params.arc_lr, generator=random)


def arc(logits: Tensor, class_tasks: Tensor, *, gamma: float, temperature: float) -> Tensor:
    """Predicted classes [B] from logits [B, C]: see `arc_logits`."""
    return arc_logits(logits, class_tasks, gamma=gamma, temperature=temperature).argmax(1)


def arc_logits(logits: Tensor, class_tasks: Tensor, *, gamma: float, temperature: float) -> Tensor:
    """Logits [B, C] over the classes seen, with -inf for classes that the vote rules out. class_tasks: [C], ascending.

    Let c be the softmax of the newest task's best class among all classes, and p that of the best past class among past
    classes. If the newest task wins and c / p < gamma, task i scores s_i = e^(max z in i) / sum e^z over the classes of
    tasks <= i, with z divided by the temperature once per task after i. The answer is the best class of tasks <=
    argmax s.
    """
    answer = logits.argmax(1)
    newest = int(class_tasks.max())
    if newest == 0:
        return logits
    shares = []  # s_i, the newest task last
    for task in range(newest + 1):
        coolness = torch.tensor(temperature, dtype=torch.float64) ** (newest - task)  # may overflow to infinity
        cooled = logits[:, class_tasks <= task] / coolness
        best = logits[:, class_tasks == task].max(1).values / coolness
        shares.append((best - cooled.logsumexp(1)).exp())
    past = logits[:, class_tasks < newest]
    confidence_past = (past.max(1).values - past.logsumexp(1)).exp()
    doubted = (class_tasks[answer] == newest) & (shares[-1] / confidence_past < gamma)
    vote = torch.stack(shares, dim=1).argmax(1)
    allowed = class_tasks[None] <= vote[:, None]
    return logits.masked_fill(doubted[:, None] & ~allowed, -torch.inf)


def retained_head(
    head: Head, features: Tensor, class_tasks: Tensor, *, beta: float, lr: float, generator: torch.Generator
) -> Head:
    """The head after one gradient step for each confident unlabelled test image [B, D], in random order.

    An image counts if its prediction is a class of a past task with a softmax above beta. A step descends the gradient
    of the cross-entropy to the prediction plus the softmax's entropy. A quadratic part of the
    head stays as it is. The given head is not changed.
    """
    weight, bias = head.weight.clone(), head.bias.clone()
    fixed = head._replace(weight=torch.zeros_like(weight), bias=torch.zeros_like(bias)).logits(features)  # [B, C]
    features = head.inputs(features)
    newest = int(class_tasks.max())
    for row in torch.randperm(len(features), generator=generator).tolist():
        inputs = features[row]
        share = (functional.linear(inputs, weight, bias) + fixed[row]).softmax(0)
        predicted = int(share.argmax())
        if int(class_tasks[predicted]) < newest and float(share[predicted]) > beta:
            log_share = share.clamp(min=torch.finfo(share.dtype).tiny).log()  # a share of 0 adds 0, not 0 times -inf
            target = functional.one_hot(torch.tensor(predicted), len(share))
            entropy = -(share * log_share).sum()
            slope = (share - target) - share * (log_share + entropy)  # gradient of both terms by the logits
            weight -= lr * slope[:, None] * inputs
            bias -= lr * slope
    return head._replace(weight=weight, bias=bias)
