"""`classifier: lda`: the linear discriminant of class Gaussians with one shared, shrunk covariance."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.classification.blocks import learn_blocks
from pipeline.classification.carrying import Share
from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear import gaussians
from pipeline.linear.gaussians import gaussians_of
from pipeline.linear.head import Head
from pipeline.params import Record


class Options(Record):
    """How the covariance is made; the defaults are those of the baselines in every report."""

    shrinkage: Share = gaussians.SHRINKAGE  # towards each vector's mean variance
    per_block: bool = False  # one discriminant per block of the backbone, scores added up


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the statistics of the task's classes, from features under the parameters tuned by this task."""
    options: Options = training.options or Options()

    def of_block(state: Mapping[str, Tensor], features: TaskFeatures) -> tuple[dict[str, Tensor], Head]:
        before = gaussians_of(state, features.own.shape[1])
        after = gaussians.add_classes(before, features.own, features.labels, features.classes)
        return after._asdict(), gaussians.linear_discriminant(after, options.shrinkage, features.vectors)

    return learn_blocks(state, features, of_block, per_block=options.per_block)


CLASSIFIER = Classifier(
    learn,
    """Classes are Gaussians that share one covariance. Their scores are log-likelihoods, which are comparable between
        tasks.""",
    options=Options,
)
