"""What is known of the test images: every feature that some step of the accuracy matrix needs, once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

_TASKS = 2**20  # more than there will ever be: an (image, task) pair as one integer


def pair_code(image: Tensor, task: Tensor) -> Tensor:
    """One integer for each pair of an image [B] and a task [B]."""
    return image * _TASKS + task


def pair_of(code: Tensor) -> tuple[Tensor, Tensor]:
    """Image and task of each code."""
    return code // _TASKS, code % _TASKS


@dataclass(frozen=True)
class FeatureTable:
    """Features of the test images after t tasks, for images of these tasks: M of them, in the order of the tasks."""

    image: Tensor  # [R] image of each row
    task: Tensor  # [R] task whose LayerNorms made the row; -1: each LayerNorm chose
    features: Tensor  # [R, D]
    rows: Tensor  # [t, M] row of an image at each step; -1 before the image's own task has come
    own_rows: Tensor  # [M] row of an image under its own task's LayerNorms
    selected: Tensor  # [t, M] task selected for an image at each step; -1 before the image's own task has come
    tuned_passes: Tensor  # [t] rows that the accuracy matrix needed at each step

    @staticmethod
    def empty(dim: int) -> "FeatureTable":
        """Before the first task."""
        none = torch.empty(0, dtype=torch.int64)
        return FeatureTable(none, none, torch.empty(0, dim), none.view(0, 0), none, none.view(0, 0), none)

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "FeatureTable":
        """From a file that holds its fields among others."""
        return FeatureTable(**{field.name: tensors[field.name] for field in fields(FeatureTable)})

    def after(self, step: int, image: Tensor) -> Tensor:
        """Features [B, D] that these images had after a step, under the LayerNorms selected then."""
        return self.features[self.rows[step, image]]

    def of_own_task(self, image: Tensor) -> Tensor:
        """Features [B, D] of these images under the LayerNorms of their own tasks."""
        return self.features[self.own_rows[image]]

    def find(self, image: Tensor, task: Tensor) -> Tensor:
        """Rows [B] of these images under these tasks, all of them in the table."""
        codes, order = pair_code(self.image, self.task).sort()
        position = torch.searchsorted(codes, pair_code(image, task)).clamp(max=len(codes) - 1)
        assert torch.equal(codes[position], pair_code(image, task)), "a feature that the table does not hold"
        return order[position]
