"""`classifier: lda`: the linear discriminant of class Gaussians with one shared, shrunk covariance."""

from torch import Tensor

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear import gaussians
from pipeline.linear.gaussians import gaussians_of
from pipeline.linear.head import Head


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the statistics of the task's classes, from features under the parameters tuned by this task."""
    del training
    after = gaussians.add_classes(
        gaussians_of(state, features.own.shape[1]), features.own, features.labels, features.classes
    )
    return after._asdict(), gaussians.linear_discriminant(after, gaussians.SHRINKAGE)


CLASSIFIER = Classifier(
    learn,
    """Classes are Gaussians that share one covariance. Their scores are log-likelihoods, which are comparable between
        tasks.""",
)
