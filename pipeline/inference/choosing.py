"""The encoder of a model that itself chooses among the tensors of all tasks, in one pass."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbone.vit import INFERENCE_BATCH, Backbone
from pipeline.data.images import Images
from pipeline.inference.encoder import Encoded, TrainFeatures, ViewFeatures
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import replace_table
from pipeline.machine.device import fetch, send
from pipeline.machine.devices import part_of_images, put_together
from pipeline.progress import Progress
from pipeline.tuning.kind import Kind


@dataclass(frozen=True)
class ChoosingEncoder:
    """Runs one pass of a model that sees the tensors of all tasks and chooses among them by itself."""

    tuned: Backbone  # with places for what is tuned
    bank: Mapping[str, Tensor]  # what T tasks have tuned, [T, ...] each
    kind: Kind
    progress: Progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Features under the tensors of all tasks, and under those of the newest alone."""
        del queries
        return TrainFeatures(self.encode(images).features, self._pass(images, self._newest()).features, None)

    def view_features(self, inputs: Tensor) -> ViewFeatures:
        """Features of views under the tensors of all tasks."""
        bank = {name: send(tensor, inputs.device) for name, tensor in self.bank.items()}
        return ViewFeatures(self.tuned.features(inputs, bank), None)

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """Replace the table. A new task changes the choice inside the model, so every image is run again."""
        del queries, own_tasks
        features, selected = self.encode(images)
        own = self._pass(images[table.selected.shape[1] : len(images)], self._newest()).features
        return replace_table(table, features, selected, own)

    def encode(self, images: Images) -> Encoded:
        """Features as at inference, in one pass per image."""
        encoded = self._pass(images, self.bank)
        self.progress.step(len(images))
        return encoded

    def encode_under(self, images: Images, tasks: Tensor) -> Tensor:
        """One pass per image, in which the model sees the tensors of its task alone."""
        features = torch.empty(len(images), self.tuned.layout.size)
        for task in tasks.unique().tolist():
            rows = (tasks == task).nonzero().flatten()
            alone = {name: tensor[task : task + 1] for name, tensor in self.bank.items()}
            features[rows] = self._pass(images[rows], alone).features
        return features

    def flops(self) -> int:
        """Operations of a pass under the tensors of all tasks."""
        return self.tuned.flops(self.bank)

    def _newest(self) -> dict[str, Tensor]:
        return {name: tensor[-1:] for name, tensor in self.bank.items()}

    def _pass(self, images: Images, bank: Mapping[str, Tensor]) -> Encoded:
        chosen: list[Tensor] = []
        part = part_of_images(len(images), INFERENCE_BATCH)

        def outputs() -> Iterator[Tensor]:
            assert self.kind.chosen
            for output in self.tuned.outputs(images[part], bank):
                chosen.append(self.kind.chosen(self.tuned.model))
                yield output

        features = torch.cat([torch.empty(0, self.tuned.layout.size), *fetch(outputs())])
        tasks = torch.cat([torch.empty(0, dtype=torch.int64), *fetch(chosen)])
        return Encoded(*(put_together(tensor, len(images), INFERENCE_BATCH) for tensor in (features, tasks)))
