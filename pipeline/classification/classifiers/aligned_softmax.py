"""`classifier: aligned_softmax`: one softmax head over all classes, trained on samples of their Gaussians.

Their shared covariance is shrunk towards one mean variance, also where a feature consists of several vectors.
"""

from dataclasses import replace

from torch import Tensor

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.classification.rows import new_softmax
from pipeline.linear import gaussians
from pipeline.linear.gaussians import gaussians_of
from pipeline.linear.head import Head

PSEUDO_FEATURES = 64  # per class; chosen on held-out images (docs/decisions.md)


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the statistics of the task's classes, and retrain all rows."""
    after = gaussians.add_classes(
        gaussians_of(state, features.own.shape[1]), features.own, features.labels, features.classes
    )
    drawn, labels = gaussians.sample(after, PSEUDO_FEATURES, gaussians.SHRINKAGE, training.generator)
    return after._asdict(), new_softmax(drawn[None], labels, replace(training, start=None))


CLASSIFIER = Classifier(
    learn,
    """All rows are trained together on samples drawn from the Gaussians of the classes, so that the logits of different
        tasks are calibrated against each other.""",
)
