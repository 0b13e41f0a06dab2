"""Stage two: classifier rows for the classes of one task, learned on features computed as at inference.

Rows of earlier tasks are never touched: a head over all seen classes is the concatenation of what each task left.
`CLASSIFIERS` names those that params.yaml can choose.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

from pipeline.errors import UserError
from pipeline.head import Head, new_head
from pipeline.progress import Progress


@dataclass(frozen=True)
class HeadSchedule:
    """How long and how fast to train a head."""

    batch_size: int
    lr: float
    epochs: int


def train_softmax(
    features: Tensor,
    labels: Tensor,
    *,
    start: Head | None,
    schedule: HeadSchedule,
    generator: torch.Generator,
    progress: Progress,
) -> Head:
    """Softmax regression over the classes of one task (arXiv 2308.09610, stage two).

    features: [V, N, D], of V views of each image, one an epoch in turn; labels: [N], from 0 within the task. start: the
    rows to begin with, or fresh ones. Cross-entropy over these classes only, Adam at a constant rate.
    """
    views, count, dim = features.shape
    head = start or new_head(int(labels.max()) + 1, dim, generator)
    weights = [tensor.clone().requires_grad_() for tensor in head]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))  # moments
    steps = [torch.zeros(()) for _ in weights]
    # The optimiser's function, not its class: the class imports a compiler for two seconds, this stage trains for one.
    step = partial(adam, amsgrad=False, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, maximize=False)
    for epoch in range(schedule.epochs):
        view = features[epoch % views]
        for rows in torch.randperm(count, generator=generator).split(schedule.batch_size):
            loss = functional.cross_entropy(Head(*weights).logits(view[rows]), labels[rows])
            with torch.no_grad():
                step(weights, list(torch.autograd.grad(loss, weights)), first, second, [], steps, lr=schedule.lr)
            progress.step(len(rows), loss)
        if not math.isfinite(progress.end_epoch(epoch, schedule.epochs)):
            raise UserError(
                f"the loss of stage two is not finite in epoch {epoch + 1}: lower classifier_lr ({schedule.lr:g})"
            )
    return Head(*(tensor.detach() for tensor in weights))


Classifier = Callable[..., Head]  # as train_softmax
CLASSIFIERS: dict[str, Classifier] = {"softmax": train_softmax}


def find_classifier(name: str) -> Classifier:
    """The training function of a classifier. Raises UserError for an unknown name."""
    if name not in CLASSIFIERS:
        raise UserError(f"params.yaml: classifier {name!r} is unknown: choose one of {', '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name]


def nearest_mean_head(queries: Tensor, labels: Tensor) -> Head:
    """The nearest-class-mean baseline as a head on normalised queries: the class of the highest cosine.

    queries: [N, D]; labels: [N]. A row is the normalised mean of the normalised queries of a class.
    """
    directions = functional.normalize(queries, dim=1)
    sums = torch.zeros(int(labels.max()) + 1, queries.shape[1]).index_add_(0, labels, directions)
    return Head(functional.normalize(sums, dim=1), torch.zeros(len(sums)))
