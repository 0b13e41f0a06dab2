"""Stage one: tune the parameters of a task, starting from those of the task before."""

from dataclasses import fields, replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field

from pipeline.backbone.build import Normalize, build_backbone
from pipeline.data.images import Images
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
from pipeline.tuning.kind import find_kind, with_places
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
    index = task_index(task)
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=params.image_size, normalize=params.normalize, device=compute_device()
    )
    tuned_backbone = with_places(backbone, kind, options)
    train = artifacts.load_tensors(artifacts.train_file(task))
    images = Images.from_tensors(train)
    bank = artifacts.load_tensors(artifacts.bank_file(task_name(index - 1)))  # [T, ...] each
    heads = artifacts.load_tensors(artifacts.auxiliary_heads_file(task_name(index - 1)))

    previous = row(bank, -1) if params.tuning_init == "previous" else {}
    start = kind.start(tuned_backbone, options, previous, images)
    if kind.chosen:  # the model expects one row per task, here a single one
        start = {name: tensor[None] for name, tensor in start.items()}
    state = resume.state_file(f"stage_one@{task}", backbone.device)
    schedule = Schedule(**{field.name: getattr(params, field.name) for field in fields(Schedule)})
    if int(train["labels"].max()) == 0 and not kind.penalty:
        print(f"stage one, {task}: one class cannot be told from others: the tuned parameters keep their start values")
        schedule = replace(schedule, epochs=0)
    elif warning := too_few_steps(len(images), schedule, kind.size):
        print(f"warning: stage one, {task}: {warning}")
    with Progress(f"stage one, {task}", schedule.epochs * len(images)) as progress:
        learned, head = tune(
            tuned_backbone,
            start=start,
            images=images,
            labels=train["labels"],
            schedule=schedule,
            generator=generator(params.seed, "stage_one", index),
            progress=progress,
            penalty=kind.penalty,
            epochs=partial(resume.epochs, state, progress),
        )
    rows = {"weight": head.weight, "bias": head.bias, "task": torch.full((len(head.bias),), index)}
    artifacts.save_tensors(artifacts.auxiliary_heads_file(task), append_rows(heads, rows))
    new = learned if kind.chosen else {name: tensor[None] for name, tensor in learned.items()}
    kept = append_rows(bank, new) if kind.keeps == "each" else new
    save_bank(artifacts.bank_file(task), Bank(params.tuning, kind, options, kept))
    resume.remove(state)


if __name__ == "__main__":
    run(on_all_devices(main))
