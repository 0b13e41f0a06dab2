"""Computes features with branches beside the frozen backbone: one pass gives the query and every task's feature.

The tokens never see a branch. So the one pass also serves the choice of a task, and its features never change. When a
task arrives, only the images that choose it are run again: a pass keeps no tokens for branches that come later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.errors import DivergedError
from pipeline.inference.encoder import Encoded, TrainFeatures, ViewFeatures
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import extend_table
from pipeline.linear.head import Head
from pipeline.progress import Progress
from pipeline.selection.choose import Choice
from pipeline.tuning.kind import Kind, Rows

_UNKNOWN = -1  # the task of an image, before its outputs are judged


@dataclass(frozen=True)
class BranchingEncoder:
    """Runs the frozen backbone once, with the branches of all tasks beside it, then chooses one of their features."""

    tuned: Backbone  # with places for one branch
    kind: Kind
    bank: Rows  # what T tasks have tuned, [T, ...] each
    choice: Choice
    heads: Sequence[Head]  # the auxiliary head of each task
    progress: Progress

    def train_features(self, images: Images, queries: Tensor) -> TrainFeatures:
        """Features of the newest task's images, all from one pass."""
        one_model = self.choice.selection.one_model
        outputs = self._outputs(images, 2 if one_model else self._tasks)
        tasks = self._choose(outputs, queries, self._newest(len(images)))
        # Before the first task comes the frozen output, which is the first of the outputs.
        return TrainFeatures(self._of(outputs, tasks), outputs[-1], outputs[-2] if one_model else None)

    def view_features(self, inputs: Tensor) -> ViewFeatures:
        """Features of views, each under the task that its own pass chooses."""
        one_model = self.choice.selection.one_model
        outputs = self._split(self._with(2 if one_model else self._tasks).forward(inputs, {}).cpu())
        tasks = self._choose(outputs, outputs[0], self._newest(len(inputs)))
        return ViewFeatures(self._of(outputs, tasks), outputs[-2] if one_model and self._tasks > 1 else None)

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """Extend the table. An image that gets several features at this step is run once; to judge, every image is."""
        if self._judges:
            outputs = self._outputs(images, self._tasks)
            judged = self._judge(outputs[1:])
            return extend_table(table, judged, lambda image, task: outputs[task + 1, image], passes=len(images))
        return extend_table(
            table,
            self.choice.tasks(queries, own_tasks),
            lambda image, task: self._of_pairs(images, image, task),
        )

    def _of_pairs(self, images: Images, image: Tensor, task: Tensor) -> Tensor:
        """Features [B, D] of images [B] under tasks [B], from one pass per distinct image."""
        distinct, position = image.unique(return_inverse=True)
        return self._outputs(images[distinct], self._tasks)[task + 1, position]

    def encode(self, images: Images) -> Encoded:
        """Features as at inference, if choosing does not need an image's true task (load_learner refuses that)."""
        assert self.choice.selection.is_real
        outputs = self._outputs(images, self._needed)
        tasks = self._choose(outputs, outputs[0], torch.full((len(images),), _UNKNOWN))
        return Encoded(self._of(outputs, tasks), tasks)

    def encode_under(self, images: Images, tasks: Tensor) -> Tensor:
        """Features under given tasks, from the same one pass."""
        return self._of(self._outputs(images, self._tasks), tasks)

    def flops(self) -> int:
        """Operations of a pass with the branches that inference needs."""
        return self._with(self._needed).flops({})

    @property
    def _tasks(self) -> int:
        return len(next(iter(self.bank.values())))

    @property
    def _needed(self) -> int:
        """How many of the newest branches a pass at inference needs."""
        return 1 if self.choice.selection.one_model else self._tasks

    @property
    def _judges(self) -> bool:
        return self.choice.selection.needs_query and self.choice.selector.choose_by_outputs is not None

    def _newest(self, count: int) -> Tensor:
        return torch.full((count,), self._tasks - 1)

    def _with(self, newest: int) -> Backbone:
        """The backbone with so many of the newest branches."""
        assert self.kind.together
        rows = {name: tensor[-newest:] for name, tensor in self.bank.items()}
        return replace(self.tuned, model=self.kind.together(self.tuned.model, rows))

    def _outputs(self, images: Images, newest: int) -> Tensor:
        """The frozen output, then the feature of so many of the newest tasks: [1 + t, N, D].

        Raises DivergedError if they are not finite.
        """
        outputs = self._split(self._with(newest).encode(images, {}))
        if not bool(outputs.isfinite().all()):
            raise DivergedError("features of the branches are not finite: lower lr")
        self.progress.step(len(images))
        return outputs

    def _split(self, outputs: Tensor) -> Tensor:
        width: int = self.tuned.model.num_features
        split: Tensor = outputs.unflatten(1, (outputs.shape[1] // width, width)).transpose(0, 1)
        return split

    def _of(self, outputs: Tensor, tasks: Tensor) -> Tensor:
        """Of the outputs [1 + t, N, D], the feature of each image [N, D] under its task [N]."""
        return outputs[tasks - self._tasks, torch.arange(len(tasks))]

    def _choose(self, outputs: Tensor, queries: Tensor, own_tasks: Tensor) -> Tensor:
        return self._judge(outputs[1:]) if self._judges else self.choice.tasks(queries, own_tasks)

    def _judge(self, features: Tensor) -> Tensor:
        """The task of each image, by the logits of each task's own head for its features: [t, N, D] to [N]."""
        assert self.choice.selector.choose_by_outputs
        return self.choice.selector.choose_by_outputs(
            [head.logits(of_task) for head, of_task in zip(self.heads, features, strict=False)]
        )
