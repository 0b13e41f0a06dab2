"""Stage one: tune the parameters of a task, starting from those of the task before."""

from dataclasses import fields, replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.backbone.build import build_backbone
from pipeline.backbone.vit import Normalize
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.machine.device import compute_device
from pipeline.machine.devices import on_all_devices
from pipeline.params import Count, ImageSize, Rate, Record, Seed, read_block, read_params
from pipeline.progress import Progress
from pipeline.runtime import resume
from pipeline.runtime.command import Task, run
from pipeline.seeds import generator
from pipeline.store import artifacts
from pipeline.store.cumulative import append_rows, row
from pipeline.tasks import task_index, task_name
from pipeline.tuning.bank import Bank, save_bank
from pipeline.tuning.kind import Kind, find_kind, parts_of, with_places
from pipeline.tuning.loop import Schedule, too_few_steps, tune


class Params(Record):
    """How to tune."""

    seed: Seed
    image_size: ImageSize
    normalize: Normalize
    batch_size: Count
    lr: Rate
    epochs: Count
    min_crop: float = Field(gt=0, le=1)
    flip: bool
    optimiser: Literal["adam", "sgd"]
    lr_schedule: Literal["constant", "cosine", "drop"]
    weight_decay: float = Field(ge=0, le=1)
    head_speed: float = Field(ge=1e-3, le=1e6)
    tuned_tasks: Literal["all", "first"]
    tuning: str
    tuning_init: Literal["previous", "pretrained"]


def main(task: Task) -> None:
    """Tune the parameters of TASK (t1, t2, ...)."""
    params = read_params(Params)
    kind = find_kind(params.tuning)
    options = read_block(params.tuning, kind.options)
    if kind.keeps == "nothing":
        print(f"stage one, {task}: nothing to learn (tuning: {params.tuning})")
        save_bank(artifacts.bank_file(task), Bank(params.tuning, kind, options, {}))
        artifacts.save_tensors(artifacts.auxiliary_heads_file(task), {})
        return
    if params.weight_decay and kind.grows(options):
        raise UserError(
            f"params.yaml: weight_decay would shrink what earlier tasks keep in {params.tuning}: set it to 0.0"
        )
    index = task_index(task)
    bank = artifacts.load_tensors(artifacts.bank_file(task_name(index - 1)))  # [T, ...] each
    heads = artifacts.load_tensors(artifacts.auxiliary_heads_file(task_name(index - 1)))
    if index and params.tuned_tasks == "first":
        print(f"stage one, {task}: nothing to learn (tuned_tasks: first)")
        save_bank(artifacts.bank_file(task), Bank(params.tuning, kind, options, bank))
        artifacts.save_tensors(artifacts.auxiliary_heads_file(task), heads)
        return
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=params.image_size, normalize=params.normalize, device=compute_device()
    )
    train = artifacts.load_tensors(artifacts.train_file(task))
    images = Images.from_tensors(train)

    schedule = schedule_of(task, params, kind, train["labels"])
    learned, head = row(bank, -1) if params.tuning_init == "previous" else {}, None
    of_starts, of_training = (generator(params.seed, what, index) for what in ("start", "stage_one"))
    parts = parts_of(kind)
    states = resume.state_files(f"stage_one@{task}", backbone.device, len(parts))
    for number, (part, state) in enumerate(zip(parts, states, strict=True), start=1):
        placed = with_places(backbone, part, options)
        start = part.start(placed, options, learned, images, of_starts)
        if part.chosen:  # the model sees rows of tasks, here of a single one
            start = {name: tensor[None] for name, tensor in start.items()}
        title = f"stage one, {task}" + (f", part {number} of {len(parts)}" if len(parts) > 1 else "")
        with Progress(title, schedule.epochs * len(images)) as progress:
            learned, head = tune(
                placed,
                start=start,
                images=images,
                labels=train["labels"],
                schedule=schedule,
                generator=of_training,
                progress=progress,
                penalty=part.penalty,
                draw=part.draw,
                head=head,
                epochs=partial(resume.epochs, state, progress),
            )
    assert head, "a kind has one part at least"
    rows = {"weight": head.weight, "bias": head.bias, "task": torch.full((len(head.bias),), index)}
    artifacts.save_tensors(artifacts.auxiliary_heads_file(task), append_rows(heads, rows))
    new = learned if kind.chosen else {name: tensor[None] for name, tensor in learned.items()}
    kept = append_rows(bank, new) if kind.keeps == "each" else new
    save_bank(artifacts.bank_file(task), Bank(params.tuning, kind, options, kept))
    for state in states:
        resume.remove(state)


def schedule_of(task: Task, params: Params, kind: Kind, labels: Tensor) -> Schedule:
    """How long to train on images of these labels [N]. What is remarkable about it is said."""
    schedule = Schedule(**{field.name: getattr(params, field.name) for field in fields(Schedule)})
    if int(labels.max()) == 0 and not kind.penalty:
        print(f"stage one, {task}: a single class leaves nothing to tell apart, so nothing is tuned")
        return replace(schedule, epochs=0)
    if warning := too_few_steps(len(labels), schedule, kind.size):
        print(f"warning: stage one, {task}: {warning}")
    return schedule


if __name__ == "__main__":
    run(on_all_devices(main))
