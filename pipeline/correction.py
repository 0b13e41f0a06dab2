"""Corrections at test time: second thoughts about a prediction, from the logits alone.

Adaptive Retention & Correction (arXiv 2405.14318). `arc` is its stateless half: a weak prediction of a class of the
newest task is put to the vote of all tasks. `arc_retention` is its other half: the head follows the unlabelled test
images one by one, so it is transductive, and its row is reported apart.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.head import Head, random_features

Correction = Literal["none", "arc", "arc_retention", "rematch"]


def arc(logits: Tensor, class_tasks: Tensor, *, gamma: float, temperature: float) -> Tensor:
    """Predicted classes [B] from logits [B, C] over the classes seen, whose tasks [C] ascend.

    c: softmax of the best class of the newest task among all classes; p: of the best past class among past ones. If
    the newest task wins and c / p < gamma, task i scores s_i = e^(max z in i) / sum e^z over the classes of tasks <= i,
    where z is divided by the temperature once for each task after i. The answer is the best class of tasks <= argmax s.
    """
    answer = logits.argmax(1)
    newest = int(class_tasks.max())
    if newest == 0:
        return answer
    shares = []  # s_i, the newest task last
    for task in range(newest + 1):
        coolness = torch.tensor(temperature, dtype=torch.float64) ** (newest - task)  # infinite rather than an error
        cooled = logits[:, class_tasks <= task] / coolness
        best = logits[:, class_tasks == task].max(1).values / coolness
        shares.append((best - cooled.logsumexp(1)).exp())
    past = logits[:, class_tasks < newest]
    confidence_past = (past.max(1).values - past.logsumexp(1)).exp()
    doubted = (class_tasks[answer] == newest) & (shares[-1] / confidence_past < gamma)
    vote = torch.stack(shares, dim=1).argmax(1)
    allowed = class_tasks[None] <= vote[:, None]
    return torch.where(doubted, logits.masked_fill(~allowed, -torch.inf).argmax(1), answer)


def retained_head(
    head: Head, features: Tensor, class_tasks: Tensor, *, beta: float, lr: float, generator: torch.Generator
) -> Head:
    """The head after it has followed unlabelled test images [B, D], in random order, one gradient step each.

    Only where the prediction is a class of a past task with a softmax above beta: down the gradient of cross-entropy to
    the prediction plus the softmax's entropy. The given head is left alone.
    """
    weight, bias = head.weight.clone(), head.bias.clone()
    features = features if head.projection is None else random_features(features, head.projection)
    newest = int(class_tasks.max())
    for row in torch.randperm(len(features), generator=generator).tolist():
        inputs = features[row]
        share = functional.linear(inputs, weight, bias).softmax(0)
        predicted = int(share.argmax())
        if int(class_tasks[predicted]) < newest and float(share[predicted]) > beta:
            log_share = share.log()
            target = functional.one_hot(torch.tensor(predicted), len(share))
            entropy = -(share * log_share).sum()
            slope = (share - target) - share * (log_share + entropy)  # of both terms with respect to the logits
            weight -= lr * slope[:, None] * inputs
            bias -= lr * slope
    return Head(weight, bias, head.projection)
