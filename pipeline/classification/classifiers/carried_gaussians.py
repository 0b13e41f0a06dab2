"""`classifier: carried_gaussians`: the linear discriminant, with class statistics that move along with the model."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.classification.blocks import learn_blocks
from pipeline.classification.carrying import CarryOptions, carried
from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear import gaussians
from pipeline.linear.head import Head


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Move the Gaussians of old classes by a map fitted on the new task's images, then add those of its classes."""
    options: CarryOptions = training.options or CarryOptions()

    def of_block(state: Mapping[str, Tensor], features: TaskFeatures) -> tuple[dict[str, Tensor], Head]:
        after = carried(state, features, options)
        return after.state, gaussians.linear_discriminant(after.best, options.shrinkage, features.vectors)

    return learn_blocks(state, features, of_block, per_block=options.per_block)


CLASSIFIER = Classifier(
    learn,
    """Classes are Gaussians that share one covariance. Their scores are log-likelihoods, which are comparable between
        tasks. When a task moves the model, the Gaussians of old classes follow by a linear map, fitted on the new
        task's images before and after the move. No old image is needed. The smaller the move, the smaller the map's
        error.""",
    options=CarryOptions,
    each_class_once=lambda options: options.anchor,
    needs_one_model=True,
    sees_views=True,
)
