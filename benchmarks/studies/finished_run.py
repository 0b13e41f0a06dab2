"""What selectors and classifiers need of a finished run: queries, and features under every model, computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.backbone.build import build_backbone
from pipeline.data.images import Images
from pipeline.layout import Layout
from pipeline.linear.head import Head, task_heads, widened
from pipeline.machine.device import compute_device
from pipeline.progress import Progress
from pipeline.store import artifacts
from pipeline.store.cumulative import row, running_means
from pipeline.tasks import task_name


@dataclass(frozen=True)
class OneModel:
    """Features under models that each serve all tasks so far."""

    own: list[Tensor]  # [N, D] of each task's training images under the model after it
    before: list[Tensor]  # [N, D] under the model before it
    test: Tensor  # [M, D] under the last model


@dataclass(frozen=True)
class FinishedRun:
    """Queries, and features under the LayerNorms of every task known at the time."""

    seed: int
    train_queries: list[Tensor]  # [N, D] of each task
    train_labels: list[Tensor]  # [N] of each task, from 0
    train_features: list[Tensor]  # [t + 1, N, D] of task t's images under the LayerNorms of every task up to it
    test_queries: Tensor  # [M, D]
    test_features: Tensor  # [T, M, D]
    test_labels: Tensor  # [M]
    test_tasks: Tensor  # [M]
    average: OneModel  # under the running means of the LayerNorms
    recomputed: OneModel  # under the last mean, images of old tasks too: what carrying statistics can reach at most
    auxiliary_heads: list[Head]
    layernorm_bytes: int  # of a task
    layout: Layout  # how queries and features are divided into vectors

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.train_queries)

    @property
    def latest(self) -> OneModel:
        """Under the newest task's LayerNorms."""
        own = [features[task] for task, features in enumerate(self.train_features)]
        before = [self.train_queries[0], *(f[task] for task, f in enumerate(self.train_features[1:]))]
        return OneModel(own, before, self.test_features[-1])

    def read(self, blocks: int, per_block: int) -> "FinishedRun":
        """The same run with fewer vectors: the first ones of each of the last blocks, which stand first."""

        def cut(features: Tensor) -> Tensor:
            of_blocks: Tensor = features.unflatten(-1, (self.layout.blocks, -1))
            return of_blocks[..., :blocks, : per_block * self.layout.dim].flatten(-2)

        def of_model(model: OneModel) -> OneModel:
            return OneModel([cut(own) for own in model.own], [cut(before) for before in model.before], cut(model.test))

        return replace(
            self,
            train_queries=[cut(queries) for queries in self.train_queries],
            train_features=[cut(features) for features in self.train_features],
            test_queries=cut(self.test_queries),
            test_features=cut(self.test_features),
            average=of_model(self.average),
            recomputed=of_model(self.recomputed),
            auxiliary_heads=[head._replace(weight=cut(head.weight)) for head in self.auxiliary_heads],
            layout=Layout(self.layout.dim, blocks, per_block),
        )


def load_run(seed: int, num_tasks: int, params: Mapping[str, Any], features: str = "cls") -> FinishedRun:
    """The run in the working folder, in which stage one has finished, with these `features`."""
    names = [task_name(task) for task in range(num_tasks)]
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights,
        config,
        image_size=params["image_size"],
        normalize=params["normalize"],
        device=compute_device(),
        features=features,
    )
    bank = artifacts.load_tensors(artifacts.bank_file(names[-1]))
    means = running_means(bank)
    trains = [artifacts.load_tensors(artifacts.train_file(name)) for name in names]
    train_images = [Images.from_tensors(train) for train in trains]
    test = artifacts.load_tensors(artifacts.TEST)
    covered = test["tasks"] < num_tasks
    test_images = Images.from_tensors(test)[covered]

    with Progress(f"features, seed {seed}", images=0) as progress:

        def encode(images: Images, tuned: Mapping[str, Tensor]) -> Tensor:
            progress.step(len(images))
            return backbone.encode(images, tuned)

        def under_tasks(images: Images, count: int) -> Tensor:
            return torch.stack([encode(images, row(bank, task)) for task in range(count)])

        queries = [encode(images, {}) for images in train_images]
        last = row(means, num_tasks - 1)
        average = OneModel(
            own=[encode(images, row(means, task)) for task, images in enumerate(train_images)],
            before=[queries[0], *(encode(images, row(means, task)) for task, images in enumerate(train_images[1:]))],
            test=encode(test_images, last),
        )
        final = [*(encode(images, last) for images in train_images[:-1]), average.own[-1]]
        heads = task_heads(artifacts.load_tensors(artifacts.auxiliary_heads_file(names[-1])))
        run = FinishedRun(
            seed=seed,
            train_queries=queries,
            train_labels=[train["labels"] for train in trains],
            train_features=[under_tasks(images, task + 1) for task, images in enumerate(train_images)],
            test_queries=encode(test_images, {}),
            test_features=under_tasks(test_images, num_tasks),
            test_labels=test["labels"][covered],
            test_tasks=test["tasks"][covered],
            average=average,
            recomputed=OneModel(own=final, before=final, test=average.test),
            auxiliary_heads=[widened(head, backbone.layout.size) for head in heads],
            layernorm_bytes=size([tensor[0] for tensor in bank.values()]),
            layout=backbone.layout,
        )
        progress.finish()
    return run


def size(tensors: Sequence[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
