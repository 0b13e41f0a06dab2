"""Computes features as at inference, after one task: of its training images, their views and all test images so far.

There are five ways, with the same methods, each in a file of its own. `selecting.py` chooses a task for the image, then
runs the model with that task's tuned parameters. `judging.py` runs the models of all tasks, then chooses. In
`choosing.py` the model itself chooses, in one pass. `side_by_side.py` runs the models of all tasks and does not choose.
`branching.py` runs all tasks' branches beside one frozen pass. `method.py` says which one a method needs.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.feature_table import FeatureTable


class TrainFeatures(NamedTuple):
    """Features of a task's N training images, [N, D] each."""

    selected: Tensor  # under the parameters chosen for each image
    own: Tensor  # under those tuned by the task itself
    previous: Tensor | None  # under those tuned by the task before, if all images run under one model


class ViewFeatures(NamedTuple):
    """Features of views of a task's training images: [B, D] of a batch, or [V, N, D] of V views of all N."""

    selected: Tensor  # under the parameters chosen for each view
    previous: Tensor | None  # under those tuned by the task before, if there is one and all run under one model


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

    def view_features(self, inputs: Tensor) -> ViewFeatures:
        """Features of prepared views [B, 3, S, S] of the newest task's images."""

    def extend(self, table: FeatureTable, images: Images, queries: Tensor, own_tasks: Tensor) -> FeatureTable:
        """The table after the newest task. images: M of them, those of the table's tasks first."""

    def encode(self, images: Images) -> Encoded:
        """Features of any images, as at inference."""

    def encode_under(self, images: Images, tasks: Tensor) -> Tensor:
        """Features [N, D] of any images under the parameters of their tasks [N], which are given."""

    def flops(self) -> int:
        """Floating-point operations of one tuned pass of one image."""
