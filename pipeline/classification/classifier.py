"""Stage two: the contract that every file in `pipeline/classification/classifiers` fulfils.

A classifier learns the classes of one more task from features computed as at inference. Its state is a dict of tensors,
empty before the first task. It never reads or keeps a sample of an earlier task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.layout import Layout
from pipeline.linear.head import Head
from pipeline.params import NoOptions, Record
from pipeline.parts import find_module
from pipeline.progress import Progress

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class TaskFeatures:
    """The features of a task's training images."""

    views: Tensor  # [V, N, D] of V views of each image, as at inference
    own: Tensor  # [N, D] under the parameters tuned by this task
    before: Tensor | None  # [N, D] under those tuned by the task before; None unless one model serves all tasks
    labels: Tensor  # [N] from 0 within the task
    classes: Tensor | None = None  # [K] number of each of the task's classes among all; None: all are new
    task: int = 0  # zero-based
    layout: Layout | None = None  # how features and queries are divided into vectors; None: not at all
    queries: Tensor | None = None  # [N, D] of the frozen backbone, of the same kind
    views_before: Tensor | None = None  # [V, N, D] of the views under the parameters of `before`, if they are known

    def moves(self) -> tuple[Tensor, Tensor] | None:
        """Features of the same images before and after the task, [M, D] each: of all views if `views_before` is known.

        None unless one model serves all tasks.
        """
        if self.views_before is not None:
            return self.views_before.flatten(0, 1), self.views.flatten(0, 1)
        return None if self.before is None else (self.before, self.own)

    def samples(self) -> tuple[Tensor, Tensor]:
        """All views as separate images: [V N, D], and their labels."""
        return self.views.flatten(0, 1), self.labels.repeat(len(self.views))

    @property
    def vectors(self) -> int:
        """The number of vectors in a feature."""
        return self.layout.vectors if self.layout else 1

    def of_blocks(self) -> list["TaskFeatures"]:
        """What each block of the backbone contributes."""
        blocks = self.layout.blocks if self.layout else 1

        def cut(tensor: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * blocks if tensor is None else tensor.chunk(blocks, -1)

        of_block = self.layout.of_block if self.layout else None
        parts = zip(
            self.views.chunk(blocks, -1),
            self.own.chunk(blocks, -1),
            *(cut(tensor) for tensor in (self.before, self.queries, self.views_before)),
            strict=True,
        )
        return [
            replace(
                self,
                views=views,
                own=own,
                before=before,
                layout=of_block,
                queries=queries,
                views_before=views_before,
            )
            for views, own, before, queries, views_before in parts
        ]


@dataclass(frozen=True)
class Training:
    """Settings of the training: duration, rate, start and random numbers."""

    batch_size: int
    lr: float
    epochs: int
    start: Head | None  # rows to start from; None: fresh ones
    generator: torch.Generator
    progress: Progress
    options: Any = None  # the classifier's own block in params.yaml, as its `options` record


# (state so far, features of a task, training settings) -> (new state, head over all classes so far)
Learn = Callable[[State, TaskFeatures, Training], tuple[dict[str, Tensor], Head]]


@dataclass(frozen=True)
class Classifier:
    """How classes are learned."""

    learn: Learn
    sentence: str  # for the report: what it is, and whether and why its scores are comparable between tasks
    options: type[Record] = NoOptions
    needs_classes: bool = False  # whether it learns nothing from a task of one class, whose row then comes from lone.py
    sees_views: bool = False  # whether it learns from augmented views (classifier_views), not from the images alone
    # What it makes of the rows of stage one (classifier_init: auxiliary): trains them further on views, or keeps them.
    start: Literal["ignored", "trained", "kept"] = "ignored"
    draws_layer: bool = False  # whether it reads features through random units, drawn once for all steps
    side_by_side: bool = False  # whether it takes views that get longer with every task, [V, N, T D] (`selection: all`)
    # options -> whether it cannot learn a class that an earlier task has brought
    each_class_once: Callable[[Any], bool] = lambda _: False
    needs_one_model: bool = False  # whether it tracks how features of old classes move, which needs one model for all


def find_classifier(name: str) -> Classifier:
    """The classifier of this name. Raises UserError if there is none."""
    classifier: Classifier = find_module("classifier", name).CLASSIFIER
    return classifier
