"""`classifier: ridge`: one recursive ridge regression onto all classes."""

from torch import Tensor

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear import ridge
from pipeline.linear.head import Head
from pipeline.linear.ridge import ridge_of

PENALTY = 0.01  # chosen on held-out images (docs/decisions.md)


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the task's sums, and solve again."""
    del training
    after = ridge.add_task(ridge_of(state, features.own.shape[1]), features.own, features.labels, features.classes)
    return after._asdict(), ridge.solve(after, PENALTY)


CLASSIFIER = Classifier(
    learn, "One regression onto all classes, solved from sums that add up over tasks, so no task is favoured."
)
