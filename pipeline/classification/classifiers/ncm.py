"""`classifier: ncm`: nearest class mean by cosine."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.classification.rows import add_rows
from pipeline.linear.head import Head


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add one row per class: the normalised mean of its normalised features."""
    del training
    samples, labels = features.samples()
    directions = functional.normalize(samples, dim=1)
    sums = torch.zeros(int(labels.max()) + 1, directions.shape[1]).index_add_(0, labels, directions)
    return add_rows(state, Head(functional.normalize(sums, dim=1), torch.zeros(len(sums))))


CLASSIFIER = Classifier(
    learn, "A class is the mean direction of its features, so classes of all tasks are measured alike."
)
