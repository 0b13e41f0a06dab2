"""Features as at inference, after one task: of its training images, of views of them, of all test images so far.

Three ways to get there, with the same methods: `SelectingEncoder` chooses a task for the image, then runs that task's
model; `EntropyEncoder` runs the models of all tasks, then chooses; in `LayerwiseEncoder` every LayerNorm chooses for
itself, in one pass.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_inputs, encode_selected, extend_table, replace_table, with_pairs
from pipeline.linear.head import Head
from pipeline.machine.device import send
from pipeline.progress import Progress
from pipeline.selection.selector import ENTROPY, Selection, State, lowest_entropy, num_tasks, select_tasks
from pipeline.store.cumulative import newest_repeated, running_means
from pipeline.tuning.layerwise import encode_layerwise, with_layerwise_norms
from pipeline.tuning.parameters import Tuning


class TrainFeatures(NamedTuple):
    """Of a task's N training images, [N, D] each."""

    selected: Tensor  # under the LayerNorms that are chosen for each
    own: Tensor  # under those of the task itself


@dataclass(frozen=True)
class SelectingEncoder:
    """A task for each image, then one pass under its LayerNorms. Where a task tunes nothing, a feature is the query."""

    backbone: Backbone
    bank: Mapping[str, Tensor]  # what T tasks tuned, [T, ...] each
    state: State  # of the selector, after T tasks
    selection: Selection
    selector: str
    progress: Progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Of the newest task's images, whose queries are given; those that its own LayerNorms get run once."""
        newest = self._newest(len(queries))
        tasks = self._choose(queries, newest)
        selected = self._encode(images, queries, tasks)
        others, own = tasks != newest, selected.clone()
        own[others] = self._encode(images[others], queries[others], newest[others])
        return TrainFeatures(selected, own)

    def previous_features(self, images: Images, queries: Tensor) -> Tensor:
        """[N, D] of the newest task's images under the LayerNorms of the task before; of the first, the queries."""
        newest = self._newest(len(queries))
        return self._encode(images, queries, newest - 1) if num_tasks(self.state) > 1 else queries

    def view_features(self, inputs: Tensor) -> Tensor:
        """[B, D] of views of the newest task's images: [B, 3, S, S]."""
        queries = self.backbone.forward(inputs, {}).cpu() if self.selection == "query" or not self.bank else inputs
        tasks = self._choose(queries, self._newest(len(inputs)))
        return encode_inputs(self.backbone, inputs, tasks, self.bank) if self.bank else queries

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """The table after the newest task; images: M, those of the table's tasks first."""
        return extend_table(
            table,
            self._choose(queries, own_tasks),
            lambda image, task: self._encode(images[image], queries[image], task),
        )

    def encode(self, images: Images) -> tuple[Tensor, Tensor]:
        """Features [N, D] and tasks [N] of any images, whose own tasks are unknown."""
        needed = self.selection == "query" or not self.bank
        queries = self.backbone.encode(images, {}) if needed else torch.empty(len(images), 0)
        tasks = self._choose(queries, torch.full((len(images),), -1))
        return self._encode(images, queries, tasks), tasks

    def _encode(self, images: Images, queries: Tensor, tasks: Tensor) -> Tensor:
        return encode_selected(self.backbone, images, tasks, self.bank, self.progress) if self.bank else queries

    def _choose(self, queries: Tensor, own_tasks: Tensor) -> Tensor:
        return select_tasks(self.selection, self.selector, queries, own_tasks, self.state)

    def _newest(self, count: int) -> Tensor:
        return torch.full((count,), num_tasks(self.state) - 1)


@dataclass(frozen=True)
class EntropyEncoder:
    """A pass under the LayerNorms of every task; the task whose auxiliary head is surest is chosen."""

    backbone: Backbone
    bank: Mapping[str, Tensor]  # what T tasks tuned, [T, ...] each
    heads: Sequence[Head]  # the auxiliary head of each task
    progress: Progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Of the newest task's images."""
        del queries
        features = self._under_all(images)
        return TrainFeatures(features[self._surest(features), torch.arange(len(images))], features[-1])

    def view_features(self, inputs: Tensor) -> Tensor:
        """[B, D] of views of the newest task's images: [B, 3, S, S]."""
        count = len(inputs)
        features = [
            encode_inputs(self.backbone, inputs, torch.full((count,), task), self.bank)
            for task in range(len(self.heads))
        ]
        return torch.stack(features)[self._surest(features), torch.arange(count)]

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """The table after the newest task; images: M, those of the table's tasks first. It holds all M T pairs."""
        del queries, own_tasks

        def encode(image: Tensor, task: Tensor) -> Tensor:
            return encode_selected(self.backbone, images[image], task, self.bank, self.progress)

        image = torch.arange(len(images))
        known = len(table.image)
        for task in range(len(self.heads)):
            table = with_pairs(table, image, torch.full_like(image, task), encode)
        tasks = range(len(self.heads))
        features = [table.features[table.find(image, torch.full_like(image, task))] for task in tasks]
        return extend_table(table, self._surest(features), encode, passes=len(table.image) - known)

    def encode(self, images: Images) -> tuple[Tensor, Tensor]:
        """Features [N, D] and tasks [N] of any images."""
        features = self._under_all(images)
        tasks = self._surest(features)
        return features[tasks, torch.arange(len(images))], tasks

    def _under_all(self, images: Images) -> Tensor:
        """[T, N, D], under the LayerNorms of each task."""
        of_task = [torch.full((len(images),), task) for task in range(len(self.heads))]
        return torch.stack(
            [encode_selected(self.backbone, images, tasks, self.bank, self.progress) for tasks in of_task]
        )

    def _surest(self, features: Iterable[Tensor]) -> Tensor:
        return lowest_entropy([head.logits(of_task) for head, of_task in zip(self.heads, features, strict=True)])


class LayerwiseEncoder:
    """One pass, in which every LayerNorm chooses."""

    def __init__(self, backbone: Backbone, bank: Mapping[str, Tensor], progress: Progress) -> None:
        """bank: what T tasks tuned, their keys among it, [T, D] each."""
        self.backbone = with_layerwise_norms(backbone, list(bank), detach=False)
        self.bank, self.progress = bank, progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Of the newest task's images."""
        del queries
        return TrainFeatures(self.encode(images)[0], encode_layerwise(self.backbone, images, self._newest())[0])

    def view_features(self, inputs: Tensor) -> Tensor:
        """[B, D] of views of them: [B, 3, S, S]."""
        bank = {name: send(tensor, inputs.device) for name, tensor in self.bank.items()}
        return self.backbone.forward(inputs, bank)

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """The table after the newest task; images: M, those of the table's tasks first."""
        del queries, own_tasks
        features, selected = self.encode(images)
        own, _ = encode_layerwise(self.backbone, images[table.selected.shape[1] : len(images)], self._newest())
        return replace_table(table, features, selected, own)

    def _newest(self) -> dict[str, Tensor]:
        return {name: tensor[-1:] for name, tensor in self.bank.items()}

    def encode(self, images: Images) -> tuple[Tensor, Tensor]:
        """Features [N, D] and tasks [N] of any images."""
        features, selected = encode_layerwise(self.backbone, images, self.bank)
        self.progress.step(len(images))
        return features, selected


Encoder = SelectingEncoder | EntropyEncoder | LayerwiseEncoder


class Chooser(NamedTuple):
    """How the LayerNorms of an image are chosen, and what has been learned for it."""

    selection: Selection
    selector: str
    state: State  # of the selector
    heads: Sequence[Head]  # the auxiliary head of each task


def build_encoder(backbone: Backbone, bank: Mapping[str, Tensor], chooser: Chooser, progress: Progress) -> Encoder:
    """The encoder of a selection. bank: what T tasks tuned (`bank_of`)."""
    if chooser.selection == "layerwise":
        return LayerwiseEncoder(backbone, bank, progress)
    if chooser.selection == "query" and chooser.selector == ENTROPY and bank:
        return EntropyEncoder(backbone, bank, chooser.heads, progress)
    return SelectingEncoder(backbone, bank, chooser.state, chooser.selection, chooser.selector, progress)


def bank_of(bank: Mapping[str, Tensor], tuning: Tuning, selection: Selection, tasks: int) -> Mapping[str, Tensor]:
    """A row for each of T tasks, as a selection reads them, from the rows that stage one has stored."""
    if tuning == "full":
        bank = newest_repeated(bank, tasks)
    return running_means(bank) if selection == "average" else bank
