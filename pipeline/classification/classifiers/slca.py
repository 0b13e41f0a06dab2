"""`classifier: slca`: rows of each task, aligned on samples of the classes' Gaussians (SLCA, arXiv 2303.05118).

As the authors' code does it. Rows are those of stage one (`classifier_init: auxiliary`; with `fresh`, those of a
softmax over the task's own classes), and are kept. From the second task on, a copy of all rows is trained: on `samples`
new features of every class in each epoch, by SGD with momentum and a rate that falls from `lr` to 0 as a cosine. The
features of a class of task i have its unbiased covariance plus 1e-4 I, and after task t its mean times 0.9 + 0.1 i / t.
Only the direction of the logits z counts: the loss is the cross-entropy of z / (n temperature), where n is the mean
over tasks of the norm of the task's logits. Predictions use z itself.

A class that comes again gets one more row, with a Gaussian of its own.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pipeline.classification import lone
from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.classification.rows import new_softmax
from pipeline.linear.class_covariances import ClassCovariances, add_classes, class_covariances_of
from pipeline.linear.head import Head
from pipeline.params import Count, Rate, Record

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
_VARIANCE = 1e-4  # added to each variance
_LEAST_NORM = 1e-7


class Options(Record):
    """How rows are aligned; the defaults are the published values."""

    samples: Count = 256  # per class and epoch, and of a batch
    epochs: Count = 5
    lr: Rate = 0.01
    temperature: Annotated[float, Field(ge=0.001, le=1000)] = 0.1


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the task's rows and the statistics of its classes; the head has all rows, aligned. The state's are not."""

    def new_rows() -> Head:
        return training.start or new_softmax(features.views, features.labels, training)

    after, head = lone.learn(state, features, new_rows)
    before = class_covariances_of(state, features.own.shape[1])
    statistics = add_classes(before, features.own, features.labels)
    return after | statistics._asdict(), aligned(head, after["tasks"], statistics, training)


@torch.no_grad()
def aligned(head: Head, tasks: Tensor, statistics: ClassCovariances, training: Training) -> Head:
    """The rows [R, D] of several tasks after the alignment; those of one task as they are. tasks: [R], ascending."""
    options: Options = training.options or Options()
    newest = int(tasks.max())
    if int(tasks.min()) == newest:
        return head
    members = functional.one_hot(tasks).float()
    members = members[:, members.any(0)]  # [R, T]
    means = ((0.9 + 0.1 * (tasks + 1) / (newest + 1))[:, None] * statistics.means).float()
    roots = roots_of(statistics)
    labels = torch.arange(len(tasks)).repeat_interleave(options.samples)
    weights = [head.weight.clone(), head.bias.clone()]
    speeds = [torch.zeros_like(tensor) for tensor in weights]
    for epoch in range(options.epochs):
        lr = options.lr * (1 + math.cos(math.pi * epoch / options.epochs)) / 2
        noise = torch.randn(len(means), options.samples, means.shape[1], generator=training.generator)
        drawn = (means[:, None] + noise @ roots.mT).flatten(0, 1)
        for rows in torch.randperm(len(drawn), generator=training.generator).split(options.samples):
            logits = functional.linear(drawn[rows], *weights)
            loss, slope = loss_and_slope(logits, labels[rows], members, options.temperature)
            for tensor, speed, gradient in zip(weights, speeds, (slope.T @ drawn[rows], slope.sum(0)), strict=True):
                speed.mul_(MOMENTUM).add_(gradient + WEIGHT_DECAY * tensor)
                tensor.sub_(lr * speed)
            training.progress.step(len(rows), loss)
        training.progress.end_epoch(epoch, options.epochs, remedy=f"lower slca.lr ({options.lr:g})")
    return head._replace(weight=weights[0], bias=weights[1])


def roots_of(statistics: ClassCovariances) -> Tensor:
    """L of each class with L L' its covariance plus 1e-4 I: [R, D, D]."""
    ball = _VARIANCE * torch.eye(statistics.means.shape[1], dtype=torch.float64)
    covariances = (statistics.covariance(number) for number in range(len(statistics.counts)))
    return torch.stack([torch.linalg.cholesky(covariance + ball).float() for covariance in covariances])


def loss_and_slope(logits: Tensor, labels: Tensor, members: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the logits [B, R]. members: [R, T], 1 where a row belongs to a task.

    With e = softmax(z / (n temperature)) - y, the gradient is e / (n temperature) minus, through n, (e'z) / (n^2
    temperature T) z / |z of the row's task|.
    """
    norms = (logits.square() @ members).sqrt() + _LEAST_NORM  # [B, T]
    scale = norms.mean(1, keepdim=True) * temperature
    log_probability = (logits / scale).log_softmax(1)
    error = (log_probability.exp() - functional.one_hot(labels, len(members))) / len(labels)
    through = (error * logits).sum(1, keepdim=True) * temperature / (scale.square() * members.shape[1])
    slope = error / scale - through * logits / (norms @ members.T)
    return functional.nll_loss(log_probability, labels), slope


CLASSIFIER = Classifier(
    learn,
    """The rows of each task are trained on its own classes. Then a copy of all rows is trained together, on samples
        drawn from a Gaussian with a covariance of its own for each class, so that logits of different tasks are
        calibrated against each other.""",
    options=Options,
    needs_classes=True,
    sees_views=True,
    start="kept",
)
