"""Heads that grow by rows. A new task adds its rows; rows of earlier tasks never change."""

import torch
from torch import Tensor

from pipeline.classification.classifier import State, Training
from pipeline.linear.head import Head, new_head
from pipeline.linear.softmax import train_softmax


def add_rows(state: State, new: Head) -> tuple[dict[str, Tensor], Head]:
    """Append a new task's rows to those of earlier tasks."""
    weight, bias = new.weight.clone(), new.bias.clone()
    if state:
        weight, bias = torch.cat([state["weight"], weight]), torch.cat([state["bias"], bias])
    return {"weight": weight, "bias": bias}, Head(weight.clone(), bias.clone())


def new_softmax(views: Tensor, labels: Tensor, training: Training) -> Head:
    """Softmax regression over the classes of the labels (arXiv 2308.09610, stage two).

    views: [V, N, D], each epoch uses the next view; labels: [N].
    """
    return train_softmax(
        training.start or new_head(int(labels.max()) + 1, views.shape[2], training.generator),
        views,
        labels,
        batch_size=training.batch_size,
        lr=training.lr,
        epochs=training.epochs,
        generator=training.generator,
        progress=training.progress,
    )
