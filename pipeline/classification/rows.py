"""Softmax rows of one task."""

from torch import Tensor

from pipeline.classification.classifier import Training
from pipeline.linear.head import Head, new_head
from pipeline.linear.softmax import train_softmax


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
