"""The encoder that chooses a task for an image, then runs the model with that task's tuned parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.encoder import Encoded, TrainFeatures, ViewFeatures
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_inputs, encode_selected, extend_table
from pipeline.progress import Progress
from pipeline.selection.choose import Choice
from pipeline.selection.state import num_tasks
from pipeline.tuning.kind import Kind


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
        return TrainFeatures(selected, own, self._previous(images, queries) if self._follows else None)

    @property
    def _follows(self) -> bool:
        """Whether one model serves all images and moves with every task."""
        selection = self.choice.selection
        return selection.one_model and not selection.is_fixed and self.kind.keeps == "each"

    def _previous(self, images: Images, queries: Tensor) -> Tensor:
        """Features [N, D] under the parameters of the task before; for the first task, the queries."""
        return (
            self._encode(images, queries, self._newest(len(queries)) - 1)
            if num_tasks(self.choice.state) > 1
            else queries
        )

    def view_features(self, inputs: Tensor) -> ViewFeatures:
        """Features of views. The query of a view is computed from the view."""
        queries = self.frozen.features(inputs, {}).cpu() if self._needs_query() else inputs
        if not self.bank:
            return ViewFeatures(queries, None)

        def under(tasks: Tensor) -> Tensor:
            return self._with(queries, encode_inputs(self.tuned, inputs, tasks, self.bank))

        newest = self._newest(len(inputs))
        moves = self._follows and num_tasks(self.choice.state) > 1
        return ViewFeatures(under(self.choice.tasks(queries, newest)), under(newest - 1) if moves else None)

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
