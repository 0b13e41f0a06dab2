"""`classifier: softmax`: the paper's (arXiv 2308.09610, stage two). Only rows of the same task compete in training."""

from torch import Tensor

from pipeline.classification import lone
from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.classification.rows import new_softmax
from pipeline.linear.head import Head


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Train rows for the task's classes by cross-entropy over these classes. A single class: lone.py."""
    return lone.learn(state, features, lambda: new_softmax(features.views, features.labels, training))


CLASSIFIER = Classifier(
    learn,
    """The rows of each task are trained on its own classes only, with features computed as at inference. Nothing
        calibrates the logits of one task against those of another.""",
    needs_classes=True,
    sees_views=True,
    start="trained",
)
