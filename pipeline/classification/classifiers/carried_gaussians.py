"""`classifier: carried_gaussians`: the linear discriminant, with class statistics that move along with the model."""

from torch import Tensor

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.errors import UserError
from pipeline.linear import gaussians
from pipeline.linear.gaussians import gaussians_of
from pipeline.linear.head import Head

PENALTY = 1.0  # of the map into the new features; chosen on held-out images (docs/decisions.md)


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Move the Gaussians of old classes by a map fitted on the new task's images, then add those of its classes."""
    del training
    if features.before is None:
        raise UserError(
            "params.yaml: classifier: carried_gaussians needs one model for all tasks: set selection: average and "
            "tuning: layernorm"
        )
    before = gaussians_of(state, features.own.shape[1])
    if state:
        before = gaussians.carry(before, features.before, features.own, PENALTY)
    after = gaussians.add_classes(before, features.own, features.labels, features.classes)
    return after._asdict(), gaussians.linear_discriminant(after, gaussians.SHRINKAGE)


CLASSIFIER = Classifier(
    learn,
    """Classes are Gaussians that share one covariance. Their scores are log-likelihoods, which are comparable between
        tasks. When a task moves the model, the Gaussians of old classes follow by a linear map, fitted on the new
        task's images before and after the move. No old image is needed. The smaller the move, the smaller the map's
        error.""",
    needs_one_model=True,
)
