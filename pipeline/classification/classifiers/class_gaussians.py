"""`classifier: class_gaussians`: a quadratic discriminant, with class statistics that move along with the model.

The covariance of a class is a mixture: `own` of the class's own, kept in its `rank` strongest directions; `shrinkage`
of each vector's mean variance; the rest of the covariance that all classes share (pipeline/linear/class_gaussians.py).
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.classification.blocks import learn_blocks
from pipeline.classification.carrying import CarryOptions, Share, carried
from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear.class_gaussians import own_directions, quadratic_discriminant
from pipeline.linear.head import Head

_DIRECTIONS = "directions"


class Options(CarryOptions):
    """How class statistics follow the model, and how much of a class's own covariance counts."""

    shrinkage: Share = 0.2
    per_block: bool = True
    own: Annotated[float, Field(ge=0, lt=1)] = 0.1
    rank: Annotated[int, Field(ge=1, le=4096)] = 16

    @model_validator(mode="after")
    def _check_shares(self) -> "Options":
        if self.own + self.shrinkage > 1:
            raise ValueError(f"own is {self.own} and shrinkage is {self.shrinkage}, but together they may be 1 at most")
        return self


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Move the Gaussians of old classes, their own directions included, then add those of the new task's classes."""
    options: Options = training.options or Options()

    def of_block(state: Mapping[str, Tensor], features: TaskFeatures) -> tuple[dict[str, Tensor], Head]:
        after = carried({name: tensor for name, tensor in state.items() if name != _DIRECTIONS}, features, options)
        directions = own_directions(*features.samples(), options.rank)
        if after.move:
            directions = torch.cat([after.move.directions(state[_DIRECTIONS]), directions])
        head = quadratic_discriminant(
            after.best, directions, own=options.own, shrinkage=options.shrinkage, vectors=features.vectors
        )
        return after.state | {_DIRECTIONS: directions}, head

    return learn_blocks(state, features, of_block, per_block=options.per_block)


CLASSIFIER = Classifier(
    learn,
    """Classes are Gaussians, each with a covariance between its own and that of all classes. Their scores are
        log-likelihoods, which are comparable between tasks. When a task moves the model, the Gaussians of old classes
        follow by a linear map, fitted on the new task's images before and after the move. No old image is needed.""",
    options=Options,
    each_class_once=lambda _: True,  # the directions of a class cannot be merged
    needs_one_model=True,
    sees_views=True,
)
