"""Stage one: tune LayerNorms (or whatever else is to be tuned) on one task, with an auxiliary head."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.backbone.vit import Backbone, LayerNorms
from pipeline.data.augment import draw_views
from pipeline.data.images import Images
from pipeline.linear.head import Head, new_head
from pipeline.machine.device import precise, send
from pipeline.machine.devices import add_up, part_of_batch
from pipeline.progress import Progress
from pipeline.tuning.parameters import Tuning
from pipeline.tuning.state import Training


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    batch_size: int
    lr: float
    epochs: int
    min_crop: float  # smallest share of an image that a training crop keeps; 1: no crops
    flip: bool  # mirror every second training image left to right


_SIZE = {"layernorm": 1.0, "full": 0.02}  # of what is tuned, as it begins: a LayerNorm's scale; a weight of a ViT
_NOTICEABLE = 0.1  # of that size


def too_few_steps(images: int, schedule: Schedule, tuning: Tuning) -> str:
    """What to say where a task of so many images gets too few steps to learn from; nothing where it gets enough.

    Adam moves a value by about lr a step (Kingma and Ba, arXiv 1412.6980, section 2.1), so n steps move it by n lr at
    most. Where that is less than a tenth of its size, tuned and pretrained backbone are as good as the same.
    """
    if tuning == "none" or not schedule.epochs:
        return ""
    per_epoch = math.ceil(images / schedule.batch_size)
    steps, size = schedule.epochs * per_epoch, _SIZE[tuning]
    if steps * schedule.lr >= _NOTICEABLE * size:
        return ""
    wanted = math.ceil(2 * _NOTICEABLE * size / schedule.lr)  # advice that is not on the edge
    batch = images * schedule.epochs // wanted
    smaller = f"batch_size: {batch}, or " if batch else ""
    return (
        f"few steps to learn from, {steps} at lr {schedule.lr:g}: they move a value by {steps * schedule.lr:.1g} "
        f"at most, where it begins near {size:g}: set {smaller}epochs: {math.ceil(wanted / per_epoch)}, or a higher lr"
    )


def every_epoch(_: Training, count: int) -> Iterable[int]:
    """From the first to the last."""
    return range(count)


def tune_layernorms(  # noqa: PLR0913
    backbone: Backbone,
    *,
    start: Mapping[str, Tensor],
    images: Images,
    labels: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
    progress: Progress,
    similarity: Callable[[], Tensor] | None = None,
    epochs: Callable[[Training, int], Iterable[int]] = every_epoch,
) -> tuple[LayerNorms, Head]:
    """LayerNorms of one task, from those of the task before, and the auxiliary head (arXiv 2308.09610, stage one).

    start: what is tuned, with the values to begin with; images: N; labels: [N], from 0 within the task. similarity: of
    the batch just run to the keys being learned; it is raised while the cross-entropy is lowered (single-pass variant).
    epochs: those to be done, in order; one may give the training back what it had after the epoch before.
    Cross-entropy over the task's classes; Adam(0.9, 0.999) at a constant rate, fresh for every task. The auxiliary head
    learns at the same rate, in double precision: its gradient, a sum over a batch's images, then rounds alike however
    many devices share them. Nothing is fetched from the device within an epoch.
    """
    device = backbone.device
    layernorms = {name: tensor.to(device, copy=True).requires_grad_() for name, tensor in start.items()}
    head = new_head(int(labels.max()) + 1, backbone.model.num_features, generator)
    auxiliary_head = [tensor.to(device, precise(device)).requires_grad_() for tensor in (head.weight, head.bias)]
    tuned = [*layernorms.values(), *auxiliary_head]
    optimiser = torch.optim.Adam(tuned, lr=schedule.lr, fused=device.type == "cuda")
    for epoch in epochs(Training(tuned, optimiser, generator), schedule.epochs):
        order = torch.randperm(len(images), generator=generator).split(schedule.batch_size)
        parts = [part_of_batch(len(rows)) for rows in order]
        own = [rows[part] for rows, (part, _) in zip(order, parts, strict=True)]  # what this device computes
        for rows, (part, share), mine, pixels in zip(
            order, parts, own, images.batches(own, backbone.image_size), strict=True
        ):
            views = draw_views(len(rows), generator, min_crop=schedule.min_crop, flip=schedule.flip)
            inputs = views.of(backbone.prepare(pixels), part)
            features = backbone.forward(inputs, layernorms).to(precise(device))
            logits = functional.linear(features, *auxiliary_head)  # [b, classes]
            loss = functional.cross_entropy(logits, send(labels[mine], device))
            if similarity:
                loss = loss - similarity()
            loss = share * loss
            optimiser.zero_grad()
            loss.backward()
            mean = loss.detach()
            add_up([mean, *(tensor.grad for tensor in tuned if tensor.grad is not None)])
            optimiser.step()
            progress.step(len(rows), mean)
        progress.end_epoch(epoch, schedule.epochs, remedy=f"lower lr ({schedule.lr:g})")
    weight, bias = (tensor.detach().float().cpu() for tensor in auxiliary_head)
    return {name: tensor.detach().cpu() for name, tensor in layernorms.items()}, Head(weight, bias)
