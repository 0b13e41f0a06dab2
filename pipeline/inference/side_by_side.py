"""Features under the models of all tasks, side by side: `selection: all`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.encoder import Encoded, TrainFeatures, ViewFeatures
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_inputs, encode_selected, extend_table, with_pairs
from pipeline.progress import Progress


@dataclass(frozen=True)
class SideBySideEncoder:
    """Runs one pass per task. The outputs [B, D] of all tasks, each of length 1, are one feature [B, T D].

    The table holds the outputs as they are, one row for every pair of image and task.
    """

    tuned: Backbone  # with places for what is tuned
    bank: Mapping[str, Tensor]  # what T tasks have tuned, [T, ...] each
    num_tasks: int
    progress: Progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Features under all tasks; the output under the newest alone is `own`, [N, D]."""
        del queries
        outputs = [self._under(images, task) for task in range(self.num_tasks)]
        return TrainFeatures(self._join(outputs), outputs[-1], None)

    def view_features(self, inputs: Tensor) -> ViewFeatures:
        """Features of views under all tasks."""
        of_task = [torch.full((len(inputs),), task) for task in range(self.num_tasks)]
        return ViewFeatures(
            self._join([encode_inputs(self.tuned, inputs, tasks, self.bank) for tasks in of_task]), None
        )

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """Extend the table. It then holds all M T pairs."""
        del queries

        def encode(image: Tensor, task: Tensor) -> Tensor:
            return encode_selected(self.tuned, images[image], task, self.bank, self.progress)

        image, known = torch.arange(len(images)), len(table.image)
        for task in range(self.num_tasks):
            table = with_pairs(table, image, torch.full_like(image, task), encode)
        newest = torch.full_like(own_tasks, self.num_tasks - 1)
        return extend_table(table, newest, encode, passes=len(table.image) - known)

    def encode(self, images: Images) -> Encoded:
        """Features as at inference, in T passes per image; the newest task stands for all."""
        features = self._join([self._under(images, task) for task in range(self.num_tasks)])
        return Encoded(features, torch.full((len(images),), self.num_tasks - 1))

    def encode_under(self, images: Images, tasks: Tensor) -> Tensor:
        """The outputs of all tasks, whichever task is given."""
        del tasks
        return self.encode(images).features

    def flops(self) -> int:
        """Of a pass under the newest task's tensors."""
        return self.tuned.flops({name: rows[-1] for name, rows in self.bank.items()})

    def _under(self, images: Images, task: int) -> Tensor:
        return encode_selected(self.tuned, images, torch.full((len(images),), task), self.bank, self.progress)

    def _join(self, outputs: Sequence[Tensor]) -> Tensor:
        return torch.cat([functional.normalize(output, dim=1) for output in outputs], 1)
