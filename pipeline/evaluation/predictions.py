"""Reconstructs the predictions of every step at the end, from stored features, selections and head rows.

None of these change once they are written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.evaluation.metrics import Matrix
from pipeline.linear.head import Head


@dataclass(frozen=True)
class EvaluationSet:
    """The test images: their tasks and classes."""

    tasks: Tensor  # [M] zero-based task of each image, ascending; all -1 if they are of no task
    labels: Tensor  # [M] class of each image, numbered in the order of the tasks
    seen_classes: Sequence[int]  # [T] classes seen after each step

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.seen_classes)

    @property
    def is_shared(self) -> bool:
        """Whether the images are of no task, so that all of them count after every step."""
        return bool((self.tasks < 0).any())

    @property
    def counts(self) -> list[int]:
        """Images of each task [T]; of all together [1] if they are shared."""
        return [len(self.tasks)] if self.is_shared else torch.bincount(self.tasks, minlength=self.num_tasks).tolist()

    def images_until(self, step: int) -> Tensor:
        """Indices of the images of the tasks seen after zero-based `step`. They come first in the set."""
        return torch.arange(int((self.tasks <= step).sum()))


def highest(logits: Tensor) -> Tensor:
    """The class of the highest logit: [B, C] -> [B]."""
    return logits.argmax(1)


def all_rows(head: Head, step: int, image: Tensor) -> None:
    """All rows of the head count for all images."""
    del head, step, image


def step_predictions(
    test: EvaluationSet,
    heads: Sequence[Head],
    features_at: Callable[[int, Tensor], Tensor],
    decide: Callable[[Tensor], Tensor] = highest,
    competing: Callable[[Head, int, Tensor], Tensor | None] = all_rows,
) -> Tensor:
    """Predicted class of every image after every step, among the classes seen by then: [T, M], -1 for future images.

    heads: one per step. features_at(step, image) returns the features [B, D] of images [B] after a step. decide turns
    scores [B, C] into classes [B]. competing(head, step, image) says which rows of the head count: [B, R].
    """
    predictions = torch.full((test.num_tasks, len(test.tasks)), -1)
    for step, head in enumerate(heads):
        image = test.images_until(step)
        predictions[step, image] = decide(head.scores(features_at(step, image), competing(head, step, image)))
    return predictions


def class_tasks_of(seen_classes: Sequence[int]) -> Tensor:
    """The zero-based task [C] of each class, from the classes seen after each step [T]."""
    counts = torch.tensor(seen_classes).diff(prepend=torch.tensor([0]))
    return torch.arange(len(counts)).repeat_interleave(counts)


def accuracy_matrix(test: EvaluationSet, predictions: Tensor) -> Matrix:
    """Accuracy on task j after step t from predictions [T, M]: [T, T], NaN above the diagonal.

    If the images are of no task, there is one column, for all of them: [T, 1].
    """
    if test.is_shared:
        shared: Matrix = (predictions == test.labels).double().mean(1, keepdim=True).numpy()
        return shared
    totals = torch.bincount(test.tasks, minlength=test.num_tasks)
    correct = [torch.bincount(test.tasks[row == test.labels], minlength=test.num_tasks) for row in predictions]
    rows = torch.stack(correct).double() / totals
    return rows.masked_fill(torch.ones_like(rows).triu(1).bool(), torch.nan).numpy()


def selection_matrix(test: EvaluationSet, selected: Tensor) -> Tensor:
    """How many images of task i the selection [M] gave to task j: int64 [T, T]."""
    cells = torch.bincount(test.tasks * test.num_tasks + selected, minlength=test.num_tasks**2)
    return cells.view(test.num_tasks, test.num_tasks)
