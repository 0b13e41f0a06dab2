"""Stage two: the contract that every file in `pipeline/classification/classifiers` fulfils.

A classifier learns the classes of one task more from features computed as at inference. Its state is a dict of tensors,
empty before the first task. No sample of an earlier task is ever read or kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.linear.head import Head
from pipeline.parts import find_module
from pipeline.progress import Progress

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class TaskFeatures:
    """A task's training images as a classifier sees them."""

    views: Tensor  # [V, N, D] of V views of each image, as at inference
    own: Tensor  # [N, D] of the images under what the task itself has tuned
    before: Tensor | None  # [N, D] under what the task before has tuned; None unless one model serves all tasks
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


# The state so far, a task's features, how to train -> the new state, and a head over all classes so far.
Learn = Callable[[State, TaskFeatures, Training], tuple[dict[str, Tensor], Head]]


@dataclass(frozen=True)
class Classifier:
    """How classes are learned."""

    learn: Learn
    sentence: str  # for the report: what it is, and why its scores compare between tasks or do not
    needs_classes: bool = False  # whether a class alone in its task teaches it nothing, and gets a row by lone.py
    needs_one_model: bool = False  # whether it follows the features of old classes, which only one model for all moves


def find_classifier(name: str) -> Classifier:
    """The classifier of this name. Raises UserError where there is none."""
    classifier: Classifier = find_module("classifier", name).CLASSIFIER
    return classifier
