"""Cut the classes into tasks: one packed file of training images a task, one of all test images."""

from typing import Literal

import torch
from pydantic import Field

from pipeline import artifacts
from pipeline.command import run
from pipeline.errors import UserError
from pipeline.packing import hold_out, take_classes
from pipeline.params import Record, read_params
from pipeline.seeds import generator
from pipeline.tasks import Chain, check_chain, class_order, cut, task_name


class Params(Record):
    """How to cut."""

    seed: int = Field(ge=0)
    classes_per_task: int = Field(ge=1)
    num_tasks: int = Field(ge=1)
    tasks: Chain
    evaluate_on: Literal["test", "validation"]


def main() -> None:
    """Cut the data set into tasks."""
    params = read_params(Params)
    info = artifacts.load_json(artifacts.RAW_CLASSES)
    tasks = cut(class_order(info["groups"], generator(params.seed, "split")), params.classes_per_task)
    check_chain(params.tasks, params.num_tasks, available=len(tasks))
    train, test = artifacts.load_tensors(artifacts.RAW_TRAIN), artifacts.load_tensors(artifacts.RAW_TEST)
    if params.evaluate_on == "validation":
        train, test = hold_out(train, generator(params.seed, "validation"))

    for images, kind in ((train, "training"), (test, params.evaluate_on)):
        counts = torch.bincount(images["labels"], minlength=len(info["classes"])).tolist()
        if 0 in counts:
            raise UserError(
                f"class {info['classes'][counts.index(0)]!r} has no {kind} image: add some, or drop the class"
            )

    names = [[info["classes"][c] for c in classes] for classes in tasks]
    artifacts.save_json(artifacts.TASKS, {task_name(t): classes for t, classes in enumerate(names)})
    for task, classes in enumerate(tasks):
        artifacts.save_tensors(artifacts.train_file(task_name(task)), take_classes(train, classes))
    in_order = take_classes(test, [c for classes in tasks for c in classes])
    sizes = torch.tensor([len(classes) for classes in tasks])
    of_class = torch.arange(len(tasks)).repeat_interleave(sizes)
    artifacts.save_tensors(artifacts.TEST, in_order | {"tasks": of_class[in_order["labels"]]})
    print(f"{len(tasks)} tasks of {params.classes_per_task} classes, evaluated on {params.evaluate_on} images")


if __name__ == "__main__":
    run(main)
