"""The encoder that runs the models of all tasks, then chooses by what their own heads say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.encoder import Encoded, TrainFeatures, ViewFeatures
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_inputs, encode_selected, extend_table, with_pairs
from pipeline.linear.head import Head
from pipeline.progress import Progress
from pipeline.selection.selector import Selector


@dataclass(frozen=True)
class JudgingEncoder:
    """Runs one pass per task; the selector then judges by the logits of each task's own auxiliary head."""

    tuned: Backbone  # with places for what is tuned
    bank: Mapping[str, Tensor]  # what T tasks have tuned, [T, ...] each
    selector: Selector
    heads: Sequence[Head]  # the auxiliary head of each task
    progress: Progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Features under all tasks; those under the newest are `own`."""
        del queries
        features = self._under_all(images)
        return TrainFeatures(features[self._judge(features), torch.arange(len(images))], features[-1], None)

    def view_features(self, inputs: Tensor) -> ViewFeatures:
        """Features of views under all tasks."""
        count = len(inputs)
        features = [
            encode_inputs(self.tuned, inputs, torch.full((count,), task), self.bank) for task in range(len(self.heads))
        ]
        return ViewFeatures(torch.stack(features)[self._judge(features), torch.arange(count)], None)

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """Extend the table. It then holds all M T pairs."""
        del queries, own_tasks

        def encode(image: Tensor, task: Tensor) -> Tensor:
            return encode_selected(self.tuned, images[image], task, self.bank, self.progress)

        image = torch.arange(len(images))
        known = len(table.image)
        for task in range(len(self.heads)):
            table = with_pairs(table, image, torch.full_like(image, task), encode)
        tasks = range(len(self.heads))
        features = [table.features[table.find(image, torch.full_like(image, task))] for task in tasks]
        return extend_table(table, self._judge(features), encode, passes=len(table.image) - known)

    def encode(self, images: Images) -> Encoded:
        """Features as at inference, in T passes per image."""
        features = self._under_all(images)
        tasks = self._judge(features)
        return Encoded(features[tasks, torch.arange(len(images))], tasks)

    def encode_under(self, images: Images, tasks: Tensor) -> Tensor:
        """One pass per image."""
        return encode_selected(self.tuned, images, tasks, self.bank, self.progress)

    def flops(self) -> int:
        """Of a pass under the newest task's tensors."""
        return self.tuned.flops({name: rows[-1] for name, rows in self.bank.items()})

    def _under_all(self, images: Images) -> Tensor:
        """Features [T, N, D] under the parameters of each task."""
        of_task = [torch.full((len(images),), task) for task in range(len(self.heads))]
        return torch.stack([encode_selected(self.tuned, images, tasks, self.bank, self.progress) for tasks in of_task])

    def _judge(self, features: Iterable[Tensor]) -> Tensor:
        assert self.selector.choose_by_outputs
        # These heads read the model's own output, which is the first vector of a feature.
        logits = [
            head.logits(of_task[:, : head.weight.shape[1]]) for head, of_task in zip(self.heads, features, strict=True)
        ]
        return self.selector.choose_by_outputs(logits)
