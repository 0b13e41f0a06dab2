"""Stage one: tune the parameters of the kind on one task, together with an auxiliary head."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.augment import draw_views
from pipeline.data.images import Images
from pipeline.linear.head import Head, new_head
from pipeline.machine.device import precise, send
from pipeline.machine.devices import add_up, part_of_batch
from pipeline.progress import Progress
from pipeline.tuning.state import Training

LEAST_TO_DROP = 10  # epochs: with fewer, none begins in the last tenth of them


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    batch_size: int
    lr: float
    epochs: int
    min_crop: float  # smallest share of an image that a training crop keeps; 1: no crops
    flip: bool  # mirror every second training image left to right
    optimiser: Literal["adam", "sgd"] = "adam"  # Adam with (0.9, 0.999), or SGD with momentum 0.9
    lr_schedule: Literal["constant", "cosine", "drop"] = "constant"  # cosine: to 0; drop: a tenth in the last tenth
    weight_decay: float = 0.0
    head_speed: float = 1.0  # the auxiliary head learns at this many times lr

    def rate(self, epoch: int) -> float:
        """The share of the rates at which an epoch runs, counted from 0."""
        if self.lr_schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return 0.1 if self.lr_schedule == "drop" and epoch >= 0.9 * self.epochs else 1.0


_NOTICEABLE = 0.1  # share of a tuned parameter's start value


def too_few_steps(images: int, schedule: Schedule, size: float) -> str:
    """A warning if a task of so many images gets too few steps to learn anything; empty if it gets enough.

    size: typical start value of a tuned parameter.

    Adam moves a value by about lr per step (Kingma and Ba, arXiv 1412.6980, section 2.1), so n steps move it by at most
    n lr. If that is less than a tenth of its size, the tuned backbone is practically the pretrained one.
    """
    if not schedule.epochs:
        return ""
    per_epoch = math.ceil(images / schedule.batch_size)
    steps = schedule.epochs * per_epoch
    if steps * schedule.lr >= _NOTICEABLE * size:
        return ""
    wanted = math.ceil(2 * _NOTICEABLE * size / schedule.lr)  # twice the least, to be safe
    batch = images * schedule.epochs // wanted
    smaller = f"batch_size: {batch}, or " if batch else ""
    return (
        f"too few steps to learn from: {steps} at lr {schedule.lr:g} move a value that begins near {size:g} by at most "
        f"{steps * schedule.lr:.1g}: set {smaller}epochs: {math.ceil(wanted / per_epoch)}, or a higher lr"
    )


def new_optimiser(schedule: Schedule, trained: Sequence[Tensor], head: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The optimiser of one task: of the tensors that are tuned, and of the auxiliary head."""
    groups = [
        {"params": list(tensors), "lr": lr, "full_lr": lr}
        for tensors, lr in ((trained, schedule.lr), (head, schedule.lr * schedule.head_speed))
    ]
    fused = head[0].device.type == "cuda"
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=schedule.weight_decay, fused=fused)
    return torch.optim.Adam(groups, weight_decay=schedule.weight_decay, fused=fused)


def every_epoch(_: Training, count: int) -> Iterable[int]:
    """All epochs, from the first to the last."""
    return range(count)


def tune(  # noqa: PLR0913
    backbone: Backbone,
    *,
    start: Mapping[str, Tensor],
    images: Images,
    labels: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
    progress: Progress,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    draw: Callable[[torch.Generator], Tuned] = lambda _: {},
    head: Head | None = None,
    epochs: Callable[[Training, int], Iterable[int]] = every_epoch,
) -> tuple[Tuned, Head]:
    """Tune one task: the tuned tensors and the auxiliary head (arXiv 2308.09610, stage one).

    start: the tensors to tune, with their start values; integers stay as they are. images: N; labels: [N], from 0
    within the task. penalty: model -> a term for the batch just run, added to the cross-entropy. draw: tensors that the
    model gets besides, anew for each batch. head: to start from, instead of a new one. epochs: the epochs to run, in
    order; an iterator may restore the state saved after an earlier epoch.

    The loss is the cross-entropy over the task's classes. The optimiser starts afresh for every task. The auxiliary
    head learns in double precision: its gradient is a sum over a batch's images, which then rounds the same for any
    number of devices. Nothing is fetched from the device within an epoch.
    """
    device = backbone.device
    tensors = {name: tensor.to(device, copy=True) for name, tensor in start.items()}
    trained = [tensor.requires_grad_() for tensor in tensors.values() if tensor.is_floating_point()]
    head = head or new_head(int(labels.max()) + 1, backbone.model.num_features, generator)
    auxiliary_head = [
        tensor.to(device, precise(device), copy=True).requires_grad_() for tensor in (head.weight, head.bias)
    ]
    tuned = [*trained, *auxiliary_head]
    optimiser = new_optimiser(schedule, trained, auxiliary_head)
    for epoch in epochs(Training(tuned, optimiser, generator), schedule.epochs):
        for group in optimiser.param_groups:
            group["lr"] = group["full_lr"] * schedule.rate(epoch)
        order = torch.randperm(len(images), generator=generator).split(schedule.batch_size)
        parts = [part_of_batch(len(rows)) for rows in order]
        own = [rows[part] for rows, (part, _) in zip(order, parts, strict=True)]  # the images that this device computes
        for rows, (part, share), mine, pixels in zip(
            order, parts, own, images.batches(own, backbone.image_size), strict=True
        ):
            views = draw_views(len(rows), generator, min_crop=schedule.min_crop, flip=schedule.flip)
            inputs = views.of(backbone.prepare(pixels), part)
            features = backbone.forward(inputs, tensors | draw(generator)).to(precise(device))
            logits = functional.linear(features, *auxiliary_head)  # [b, classes]
            loss = functional.cross_entropy(logits, send(labels[mine], device))
            if penalty:
                loss = loss + penalty(backbone.model)
            loss = share * loss
            optimiser.zero_grad()
            loss.backward()
            mean = loss.detach()
            add_up([mean, *(tensor.grad for tensor in tuned if tensor.grad is not None)])
            optimiser.step()
            progress.step(len(rows), mean)
        progress.end_epoch(epoch, schedule.epochs, remedy=f"lower lr ({schedule.lr:g})")
    weight, bias = (tensor.detach().float().cpu() for tensor in auxiliary_head)
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}, Head(weight, bias)
