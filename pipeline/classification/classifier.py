"""Stage two: how a classifier learns the classes of one task more, from features computed as at inference.

A classifier's state is a dict of tensors, empty before the first task; `LEARN` maps it and a task's features to the new
state and a head over all classes so far. No sample of an earlier task is ever read or kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification import cls, lone
from pipeline.errors import UserError
from pipeline.linear import gaussians, ridge
from pipeline.linear.gaussians import Gaussians
from pipeline.linear.head import Head, new_head, random_features
from pipeline.linear.ridge import Ridge
from pipeline.linear.softmax import train_softmax
from pipeline.progress import Progress

State = Mapping[str, Tensor]

# Chosen on held-out training images of CIFAR-100 (docs/decisions.md).
PENALTY = 0.01  # of the ridge regression
PROJECTED = 2000  # random features of ridge_projected
PROJECTED_PENALTY = 0.1
CARRY_PENALTY = 1.0  # of the map into new LayerNorms
PSEUDO_FEATURES = 64  # of a class, of aligned_softmax


@dataclass(frozen=True)
class TaskFeatures:
    """A task's training images as a classifier sees them."""

    views: Tensor  # [V, N, D] of V views of each image, as at inference
    own: Tensor  # [N, D] of the images under the task's own LayerNorms
    before: Tensor | None  # [N, D] under those of the task before; None unless one model serves all tasks
    labels: Tensor  # [N] from 0 within the task

    def samples(self) -> tuple[Tensor, Tensor]:
        """All views as images of their own: [V N, D], and their labels."""
        return self.views.flatten(0, 1), self.labels.repeat(len(self.views))


@dataclass(frozen=True)
class Training:
    """How long and fast, from where, by which random numbers."""

    batch_size: int
    lr: float
    epochs: int
    start: Head | None  # rows to begin with, or fresh ones
    generator: torch.Generator
    progress: Progress


Learn = Callable[[State, TaskFeatures, Training], tuple[dict[str, Tensor], Head]]


def new_softmax(views: Tensor, labels: Tensor, training: Training) -> Head:
    """Softmax regression over the classes of the labels (arXiv 2308.09610, stage two).

    views: [V, N, D], one view an epoch in turn; labels: [N].
    """
    return train_softmax(
        training.start or new_head(int(labels.max()) + 1, views.shape[2], training.generator),
        views,
        labels,
        batch_size=training.batch_size,
        lr=training.lr,
        epochs=training.epochs,
        generator=training.generator,
        progress=training.progress,
    )


def add_rows(state: State, new: Head) -> tuple[dict[str, Tensor], Head]:
    """One more task's rows below those of earlier tasks, which are never touched."""
    weight, bias = new.weight.clone(), new.bias.clone()
    if state:
        weight, bias = torch.cat([state["weight"], weight]), torch.cat([state["bias"], bias])
    return {"weight": weight, "bias": bias}, Head(weight.clone(), bias.clone())


def _learn_softmax(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """The paper's: rows of the task's classes, cross-entropy over these classes only (a class alone: lone.py)."""
    return lone.add_task(state, *features.samples(), lambda: new_softmax(features.views, features.labels, training))


def learn_nearest_mean(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Nearest class mean by cosine: a row is the normalised mean of a class's normalised features."""
    del training
    samples, labels = features.samples()
    directions = functional.normalize(samples, dim=1)
    sums = torch.zeros(int(labels.max()) + 1, directions.shape[1]).index_add_(0, labels, directions)
    return add_rows(state, Head(functional.normalize(sums, dim=1), torch.zeros(len(sums))))


def _gaussians(state: State, features: TaskFeatures) -> Gaussians:
    dim = features.own.shape[1]
    return Gaussians(state["counts"], state["means"], state["scatter"]) if state else gaussians.no_gaussians(dim)


def _learn_discriminant(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Linear discriminant: class Gaussians under their own tasks' LayerNorms, one shared shrunk covariance."""
    del training
    after = gaussians.add_classes(_gaussians(state, features), features.own, features.labels)
    return after._asdict(), gaussians.linear_discriminant(after, gaussians.SHRINKAGE)


def _learn_carried(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """The discriminant, its Gaussians carried into the newest LayerNorms by a map fitted on the new task's images."""
    del training
    if features.before is None:
        raise UserError(
            "params.yaml: classifier: carried_gaussians needs one model for all: set selection: average and "
            "tuning: layernorm"
        )
    before = _gaussians(state, features)
    if state:
        before = gaussians.carry(before, features.before, features.own, CARRY_PENALTY)
    after = gaussians.add_classes(before, features.own, features.labels)
    return after._asdict(), gaussians.linear_discriminant(after, gaussians.SHRINKAGE)


def _learn_aligned(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """One softmax head over all classes so far, trained anew on samples from their Gaussians."""
    after = gaussians.add_classes(_gaussians(state, features), features.own, features.labels)
    drawn, labels = gaussians.sample(after, PSEUDO_FEATURES, gaussians.SHRINKAGE, training.generator)
    return after._asdict(), new_softmax(drawn[None], labels, replace(training, start=None))


def _learn_ridge(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Recursive ridge regression onto classes."""
    del training
    before = Ridge(state["gram"], state["targets"]) if state else ridge.no_ridge(features.own.shape[1])
    after = ridge.add_task(before, features.own, features.labels)
    return after._asdict(), ridge.solve(after, PENALTY)


def _learn_ridge_projected(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """The same on ReLU features of a fixed random projection (RanPAC, NeurIPS 2023)."""
    layer = torch.randn(features.own.shape[1], PROJECTED, generator=training.generator)
    projection = state["projection"] if state else functional.pad(layer, (0, 0, 0, 1))
    before = Ridge(state["gram"], state["targets"]) if state else ridge.no_ridge(PROJECTED)
    after = ridge.add_task(before, random_features(features.own, projection), features.labels)
    head = ridge.solve(after, PROJECTED_PENALTY)._replace(projection=projection)
    return after._asdict() | {"projection": projection}, head


def _learn_cls(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Complementary Learning Subnetworks: see pipeline.classification.cls."""
    layer = cls.hidden_layer(features.own.shape[1], training.generator)
    projection = state["projection"] if state else layer
    known = {name: state[name] for name in ("weights", "anchor", "pull")} if state else {}
    after = cls.learn(known, random_features(features.own, projection), features.labels)
    weight = after["weights"].T.float().contiguous()
    return after | {"projection": projection}, Head(weight, torch.zeros(len(weight)), projection)


LEARN: dict[str, Learn] = {
    "softmax": _learn_softmax,
    "ncm": learn_nearest_mean,
    "lda": _learn_discriminant,
    "ridge": _learn_ridge,
    "ridge_projected": _learn_ridge_projected,
    "aligned_softmax": _learn_aligned,
    "cls": _learn_cls,
    "carried_gaussians": _learn_carried,
}


def find_classifier(name: str) -> Learn:
    """How a classifier learns. Raises UserError for an unknown name."""
    if name not in LEARN:
        raise UserError(f"params.yaml: classifier {name!r} is unknown: choose one of {', '.join(LEARN)}")
    return LEARN[name]
