"""Stage one of a task: its LayerNorms, tuned from those of the task before."""

from dataclasses import fields, replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field

from pipeline.backbone.vit import Normalize, build_backbone
from pipeline.data.images import Images
from pipeline.machine.device import compute_device
from pipeline.machine.devices import on_all_devices
from pipeline.params import Count, ImageSize, Rate, Record, Seed, read_params
from pipeline.progress import Progress
from pipeline.runtime import resume
from pipeline.runtime.command import Task, run
from pipeline.seeds import generator
from pipeline.store import artifacts
from pipeline.store.cumulative import append_rows
from pipeline.tasks import task_index, task_name
from pipeline.tuning.layerwise import initial_attention, initial_keys, similarity, with_layerwise_norms
from pipeline.tuning.loop import Schedule, too_few_steps, tune_layernorms
from pipeline.tuning.parameters import TunedNorms, TunedParameters, Tuning, tuned_names


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
    tuning: Tuning
    tuned_norms: TunedNorms
    tuned_parameters: TunedParameters
    layernorm_init: Literal["previous", "pretrained"]


def main(task: Task) -> None:
    """Tune the LayerNorms of TASK (t1, t2, ...)."""
    params = read_params(Params)
    if params.tuning == "none":
        print(f"stage one, {task}: tuning: none leaves nothing to learn")
        artifacts.save_tensors(artifacts.layernorms_file(task), {})
        artifacts.save_tensors(artifacts.auxiliary_heads_file(task), {})
        return
    objective = artifacts.load_json(artifacts.OBJECTIVE)
    index = task_index(task)
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=params.image_size, normalize=params.normalize, device=compute_device()
    )
    train = artifacts.load_tensors(artifacts.train_file(task))
    images = Images.from_tensors(train)
    bank = artifacts.load_tensors(artifacts.layernorms_file(task_name(index - 1)))  # [T, D] each
    before = artifacts.load_tensors(artifacts.auxiliary_heads_file(task_name(index - 1)))
    names = tuned_names(backbone.model, params.tuning, params.tuned_norms, params.tuned_parameters)
    start = backbone.pretrained(names)
    if bank and params.layernorm_init == "previous":
        start = {name: bank[name][-1] for name in names}
    raised = None
    if objective["layerwise"]:  # rows stay rows, [1, D]: a norm tells its tasks by them
        backbone = with_layerwise_norms(backbone, names, detach=objective["detach"])
        start = {name: tensor[None] for name, tensor in start.items()}
        start |= initial_keys(backbone, images, start) | (initial_attention(backbone) if objective["attention"] else {})
        raised = partial(similarity, backbone)

    state = resume.state_file(f"stage_one@{task}", backbone.device)
    schedule = Schedule(**{field.name: getattr(params, field.name) for field in fields(Schedule)})
    if int(train["labels"].max()) == 0 and not raised:
        print(f"stage one, {task}: one class only, nothing to tell it from: its LayerNorms stay as they start")
        schedule = replace(schedule, epochs=0)
    elif warning := too_few_steps(len(images), schedule, params.tuning):
        print(f"warning: stage one, {task}: {warning}")
    with Progress(f"stage one, {task}", schedule.epochs * len(images)) as progress:
        learned, head = tune_layernorms(
            backbone,
            start=start,
            images=images,
            labels=train["labels"],
            schedule=schedule,
            generator=generator(params.seed, "stage_one", index),
            progress=progress,
            similarity=raised,
            epochs=partial(resume.epochs, state, progress),
        )
    rows = {"weight": head.weight, "bias": head.bias, "task": torch.full((len(head.bias),), index)}
    artifacts.save_tensors(artifacts.auxiliary_heads_file(task), append_rows(before, rows))
    new = learned if objective["layerwise"] else {name: tensor[None] for name, tensor in learned.items()}
    artifacts.save_tensors(artifacts.layernorms_file(task), new if params.tuning == "full" else append_rows(bank, new))
    resume.remove(state)


if __name__ == "__main__":
    run(on_all_devices(main))
