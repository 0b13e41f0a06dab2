"""Stage one: tune LayerNorms (or whatever else is to be tuned) on one task, with an auxiliary head."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.augment import augment
from pipeline.backbone import Backbone, LayerNorms
from pipeline.device import send
from pipeline.errors import UserError
from pipeline.head import Head
from pipeline.images import Images
from pipeline.progress import Progress
from pipeline.training import Training

LrSchedule = Literal["constant", "linear"]
_WARM_UP = 0.1  # share of the steps of `linear`


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    batch_size: int
    lr: float
    lr_schedule: LrSchedule
    auxiliary_lr: float  # rate of the auxiliary head, as a multiple
    epochs: int
    min_crop: float  # smallest share of an image that a training crop keeps; 1: no crops
    flip: bool  # mirror every second training image left to right

    def lr_at(self, step: int, steps: int) -> float:
        """The rate of zero-based `step`: constant, or linearly up to lr in a tenth of the steps and down towards 0."""
        if self.lr_schedule == "constant":
            return self.lr
        return self.lr * min((step + 1) / math.ceil(_WARM_UP * steps), (steps - step) / (steps * (1 - _WARM_UP)), 1.0)


def every_epoch(_: Training, count: int) -> Iterable[int]:
    """From the first to the last."""
    return range(count)


def tune_layernorms(  # noqa: PLR0913
    backbone: Backbone,
    *,
    start: Mapping[str, Tensor],
    start_head: Head,
    images: Images,
    labels: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
    progress: Progress,
    similarity: Callable[[], Tensor] | None = None,
    epochs: Callable[[Training, int], Iterable[int]] = every_epoch,
) -> tuple[LayerNorms, Head]:
    """LayerNorms of one task, from those of the task before, and the auxiliary head (arXiv 2308.09610, stage one).

    start, start_head: what is tuned, with the values to begin with; images: N; labels: [N], from 0 within the task.
    similarity: of the batch just run to the keys being learned; it is raised while the cross-entropy is lowered
    (single-pass variant). epochs: those to be done, in order; one may give the training back what it had after the
    epoch before. Cross-entropy over the task's classes; Adam(0.9, 0.999), fresh for every task. Nothing is fetched from
    the device within an epoch.
    """
    device = backbone.device
    layernorms = {name: tensor.to(device, copy=True).requires_grad_() for name, tensor in start.items()}
    auxiliary_head = [t.to(device, copy=True).requires_grad_() for t in (start_head.weight, start_head.bias)]
    groups = [list(layernorms.values()), auxiliary_head]
    optimiser = torch.optim.Adam([{"params": group} for group in groups], fused=device.type == "cuda")
    batches = math.ceil(len(images) / schedule.batch_size)
    for epoch in epochs(Training([*groups[0], *groups[1]], optimiser, generator), schedule.epochs):
        order = torch.randperm(len(images), generator=generator).split(schedule.batch_size)
        pixels_of = zip(order, images.batches(order, backbone.image_size), strict=True)
        for step, (rows, pixels) in enumerate(pixels_of, start=epoch * batches):
            lr = schedule.lr_at(step, schedule.epochs * batches)
            for group, multiple in zip(optimiser.param_groups, (1.0, schedule.auxiliary_lr), strict=True):
                group["lr"] = lr * multiple
            inputs = augment(backbone.prepare(pixels), generator, min_crop=schedule.min_crop, flip=schedule.flip)
            logits = functional.linear(backbone.forward(inputs, layernorms), *auxiliary_head)  # [B, classes]
            loss = functional.cross_entropy(logits, send(labels[rows], device))
            if similarity:
                loss = loss - similarity()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            progress.step(len(rows), loss)
        if not math.isfinite(progress.end_epoch(epoch, schedule.epochs)):
            raise UserError(f"the loss of stage one is not finite in epoch {epoch + 1}: lower lr ({schedule.lr:g})")
    weight, bias = (tensor.detach().cpu() for tensor in auxiliary_head)
    return {name: tensor.detach().cpu() for name, tensor in layernorms.items()}, Head(weight, bias)
