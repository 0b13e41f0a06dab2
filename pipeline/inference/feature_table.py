"""The features of the test images: each feature that a step of the accuracy matrix needs is stored once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

_TASKS = 2**20  # more tasks than there will ever be, so that an (image, task) pair fits into one integer


def pair_code(image: Tensor, task: Tensor) -> Tensor:
    """One integer per pair of an image [B] and a task [B]."""
    return image * _TASKS + task


def pair_of(code: Tensor) -> tuple[Tensor, Tensor]:
    """Image and task of each code."""
    return code // _TASKS, code % _TASKS


@dataclass(frozen=True)
class FeatureTable:
    """Features of the M test images of the first t tasks, after these tasks. Images are in the order of the tasks."""

    image: Tensor  # [R] image of each row
    task: Tensor  # [R] task whose LayerNorms computed the row; -1: each LayerNorm chose a task itself
    features: Tensor  # [R, D]
    rows: Tensor  # [t, M] row of an image at each step; -1 before the image's own task
    own_rows: Tensor  # [M] row of an image under its own task's LayerNorms
    selected: Tensor  # [t, M] task selected for an image at each step; -1 before the image's own task
    tuned_passes: Tensor  # [t] tuned passes that each step of the accuracy matrix took

    @staticmethod
    def empty(dim: int) -> "FeatureTable":
        """The table before the first task."""
        none = torch.empty(0, dtype=torch.int64)
        return FeatureTable(none, none, torch.empty(0, dim), none.view(0, 0), none, none.view(0, 0), none)

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "FeatureTable":
        """The table in a file that also has other tensors."""
        return FeatureTable(**{field.name: tensors[field.name] for field in fields(FeatureTable)})

    def after(self, step: int, image: Tensor) -> Tensor:
        """Features [B, D] of these images after a step, under the LayerNorms selected at that step."""
        return self.features[self.rows[step, image]]

    def side_by_side(self, image: Tensor) -> Tensor:
        """Features [B, T D] of these images under each task, one after another and each of length 1."""
        tasks = range(len(self.selected))
        rows = [self.find(image, torch.full_like(image, task)) for task in tasks]
        return torch.cat([functional.normalize(self.features[of_task], dim=1) for of_task in rows], 1)

    def of_own_task(self, image: Tensor) -> Tensor:
        """Features [B, D] of these images under the LayerNorms of their own tasks."""
        return self.features[self.own_rows[image]]

    def find(self, image: Tensor, task: Tensor) -> Tensor:
        """Rows [B] of these images under these tasks. The table must hold all of them."""
        codes, order = pair_code(self.image, self.task).sort()
        position = torch.searchsorted(codes, pair_code(image, task)).clamp(max=len(codes) - 1)
        assert torch.equal(codes[position], pair_code(image, task)), "a feature that the table does not hold"
        return order[position]
