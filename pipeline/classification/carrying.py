"""Class statistics that follow the model, and the anchor that keeps their means in place."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from pipeline.classification.classifier import TaskFeatures
from pipeline.errors import UserError
from pipeline.linear import anchor, gaussians
from pipeline.linear.gaussians import Gaussians, Move, gaussians_of
from pipeline.params import Record
from pipeline.store.cumulative import part

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=0, le=1e6)]
_ANCHOR = "anchor."


class Carried(NamedTuple):
    """The statistics of all classes under the newest model."""

    state: dict[str, Tensor]  # what is kept
    best: Gaussians  # what is believed: with anchored means, if there is an anchor
    move: Move | None  # how the features of old classes have moved; None for the first task


class CarryOptions(Record):
    """How class statistics follow the model."""

    shrinkage: Share = gaussians.SHRINKAGE  # of the covariance, towards each vector's mean variance
    penalty: Penalty = 1.0  # of the map into the new features, towards no move; chosen on held-out images (docs)
    per_block: bool = False  # one discriminant per block of the backbone, scores added up
    anchor: bool = False  # old means are half carried, half predicted from the frozen backbone; each class comes once


def carried(state: Mapping[str, Tensor], features: TaskFeatures, options: CarryOptions) -> Carried:
    """Move the statistics of old classes by a map fitted on the new task's images, then add those of the new classes.

    Both come from all views of an image where there are views.
    """
    moves = features.moves()
    if moves is None:
        raise UserError(
            "params.yaml: this classifier needs one model for all tasks: set selection: average and tuning: layernorm"
        )
    size, vectors, move = features.own.shape[1], features.vectors, None
    before = gaussians_of(state, size)
    if state:
        move = gaussians.fit_move(*moves, options.penalty, vectors)
        before = gaussians.carry(before, move)
    after = gaussians.add_classes(before, *features.samples(), features.classes)
    if not options.anchor:
        return Carried(after._asdict(), after, move)
    assert features.queries is not None, "stage two gives them"
    held = anchor.anchor_of(part(state, _ANCHOR), size, vectors)
    held = anchor.moved(held, move) if move else held
    held = anchor.added(held, features.queries, features.own, features.labels)
    old = len(before.means)
    means = (after.means[:old] + anchor.predicted_means(held, options.penalty)[:old]) / 2
    kept = after._asdict() | {f"{_ANCHOR}{name}": tensor for name, tensor in held._asdict().items()}
    return Carried(kept, after._replace(means=torch.cat([means, after.means[old:]])), move)
