"""Computes features as at inference, after one task: of its training images, their views and all test images so far.

There are four ways, with the same methods. `SelectingEncoder` chooses a task for the image, then runs the model with
that task's tuned parameters. `JudgingEncoder` runs the models of all tasks, then chooses. In `ChoosingEncoder` the
model itself chooses, in one pass. Two more have files of their own: `SideBySideEncoder` runs the models of all tasks
and does not choose; `BranchingEncoder` runs all tasks' branches beside one frozen pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.backbone.vit import INFERENCE_BATCH, Backbone
from pipeline.data.images import Images
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_inputs, encode_selected, extend_table, replace_table, with_pairs
from pipeline.linear.head import Head
from pipeline.machine.device import fetch, send
from pipeline.machine.devices import part_of_images, put_together
from pipeline.progress import Progress
from pipeline.selection.choose import Choice
from pipeline.selection.selector import Selector
from pipeline.selection.state import num_tasks
from pipeline.tuning.kind import Kind


class TrainFeatures(NamedTuple):
    """Features of a task's N training images, [N, D] each."""

    selected: Tensor  # under the parameters chosen for each image
    own: Tensor  # under those tuned by the task itself
    previous: Tensor | None  # under those tuned by the task before, if all images run under one model


class Encoded(NamedTuple):
    """Features of any N images."""

    features: Tensor  # [N, D]
    tasks: Tensor  # [N] the task chosen for each


class Encoder(Protocol):
    """How images get features after T tasks."""

    @property
    def tuned(self) -> Backbone:
        """The backbone with places for the tuned tensors."""

    @property
    def bank(self) -> Mapping[str, Tensor]:
        """The tensors that T tasks have tuned, as the selection uses them: [T, ...] each."""

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Features of the newest task's N images; queries: [N, D]."""

    def view_features(self, inputs: Tensor) -> Tensor:
        """Features [B, D] of prepared views [B, 3, S, S] of the newest task's images."""

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """The table after the newest task. images: M of them, those of the table's tasks first."""

    def encode(self, images: Images) -> Encoded:
        """Features of any images, as at inference."""

    def encode_under(self, images: Images, tasks: Tensor) -> Tensor:
        """Features [N, D] of any images under the parameters of their tasks [N], which are given."""

    def flops(self) -> int:
        """Floating-point operations of one tuned pass of one image."""


@dataclass(frozen=True)
class SelectingEncoder:
    """Chooses a task for each image, then runs one pass with its parameters. Without tuning, a feature is the query."""

    frozen: Backbone
    tuned: Backbone  # with places for what is tuned
    kind: Kind
    bank: Mapping[str, Tensor]  # what T tasks have tuned, [T, ...] each
    choice: Choice
    progress: Progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Features of training images. An image that gets its own task's parameters is run only once."""
        newest = self._newest(len(queries))
        tasks = self.choice.tasks(queries, newest)
        selected = self._encode(images, queries, tasks)
        if self.choice.selection.is_fixed:
            return TrainFeatures(selected, selected.clone(), None)
        others, own = tasks != newest, selected.clone()
        own[others] = self._encode(images[others], queries[others], newest[others])
        follows = self.choice.selection.one_model and self.kind.keeps == "each"
        return TrainFeatures(selected, own, self._previous(images, queries) if follows else None)

    def _previous(self, images: Images, queries: Tensor) -> Tensor:
        """Features [N, D] under the parameters of the task before; for the first task, the queries."""
        return (
            self._encode(images, queries, self._newest(len(queries)) - 1)
            if num_tasks(self.choice.state) > 1
            else queries
        )

    def view_features(self, inputs: Tensor) -> Tensor:
        """Features of views. The query of a view is computed from the view."""
        queries = self.frozen.features(inputs, {}).cpu() if self._needs_query() else inputs
        tasks = self.choice.tasks(queries, self._newest(len(inputs)))
        return self._with(queries, encode_inputs(self.tuned, inputs, tasks, self.bank)) if self.bank else queries

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """Extend the table. Only images that get a task they have not had before are run."""
        return extend_table(
            table,
            self.choice.tasks(queries, own_tasks),
            lambda image, task: self._encode(images[image], queries[image], task),
            is_one_model=self.choice.selection.is_fixed,
        )

    def encode(self, images: Images) -> Encoded:
        """Features as at inference, if choosing does not need an image's true task (load_learner refuses that)."""
        assert self.choice.selection.is_real
        unknown = torch.full((len(images),), -1)
        queries = self.frozen.encode(images, {}) if self._needs_query() else unknown
        tasks = self.choice.tasks(queries, unknown)
        return Encoded(self._encode(images, queries, tasks), tasks)

    def encode_under(self, images: Images, tasks: Tensor) -> Tensor:
        """One pass per image."""
        return encode_selected(self.tuned, images, tasks, self.bank, self.progress)

    def flops(self) -> int:
        """Of a pass under the newest task's tensors."""
        return self.tuned.flops({name: rows[-1] for name, rows in self.bank.items()})

    def _needs_query(self) -> bool:
        return self.choice.selection.needs_query or self.choice.selection.with_frozen or not self.bank

    def _encode(self, images: Images, queries: Tensor, tasks: Tensor) -> Tensor:
        if not self.bank:
            return queries
        return self._with(queries, encode_selected(self.tuned, images, tasks, self.bank, self.progress))

    def _with(self, queries: Tensor, features: Tensor) -> Tensor:
        return torch.cat([queries, features], 1) if self.choice.selection.with_frozen else features

    def _newest(self, count: int) -> Tensor:
        return torch.full((count,), num_tasks(self.choice.state) - 1)


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

    def view_features(self, inputs: Tensor) -> Tensor:
        """Features of views under all tasks."""
        count = len(inputs)
        features = [
            encode_inputs(self.tuned, inputs, torch.full((count,), task), self.bank) for task in range(len(self.heads))
        ]
        return torch.stack(features)[self._judge(features), torch.arange(count)]

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

    def view_features(self, inputs: Tensor) -> Tensor:
        """Features of views under the tensors of all tasks."""
        bank = {name: send(tensor, inputs.device) for name, tensor in self.bank.items()}
        return self.tuned.features(inputs, bank)

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
