"""`classifier: ridge_projected`: the ridge regression on random features (RanPAC, NeurIPS 2023)."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear import ridge
from pipeline.linear.head import Head, random_features
from pipeline.linear.ridge import ridge_of

# Chosen on held-out images (docs/decisions.md).
UNITS = 2000
PENALTY = 0.1


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the task's sums over ReLU features of a fixed random projection, and solve again."""
    layer = torch.randn(features.own.shape[1], UNITS, generator=training.generator)
    projection = state["projection"] if state else functional.pad(layer, (0, 0, 0, 1))
    inputs = random_features(features.own, projection)
    after = ridge.add_task(ridge_of(state, UNITS), inputs, features.labels, features.classes)
    head = ridge.solve(after, PENALTY)._replace(projection=projection)
    return after._asdict() | {"projection": projection}, head


CLASSIFIER = Classifier(
    learn,
    """One regression from random features onto all classes, solved from sums that add up over tasks, so no task is
        favoured.""",
    draws_layer=True,
)
