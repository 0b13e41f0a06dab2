"""Cut the classes into tasks: one packed file of training images a task, one of all test images."""

from typing import Annotated, Literal
from unicodedata import normalize

import torch
from pydantic import Field

from pipeline import artifacts
from pipeline.command import run
from pipeline.errors import UserError
from pipeline.images import Images
from pipeline.packing import hold_out, rows_of
from pipeline.params import Count, Record, Seed, read_params
from pipeline.seeds import generator
from pipeline.tasks import Chain, check_chain, class_order, cut, named_tasks, task_name


class Params(Record):
    """How to cut."""

    seed: Seed
    classes_per_task: Count
    task_classes: list[Annotated[list[str], Field(min_length=1)]]
    num_tasks: Count
    tasks: Chain
    evaluate_on: Literal["test", "validation"]
    order: Literal["sequential", "joint"]


def _as_known(wanted: list[list[str]], classes: list[str]) -> list[list[str]]:
    """Names as the classes bear them: composed, where they are written in decomposed Unicode."""
    return [[name if name in classes else normalize("NFC", name) for name in names] for names in wanted]


def main() -> None:
    """Cut the data set into tasks."""
    params = read_params(Params)
    info = artifacts.load_json(artifacts.RAW_CLASSES)
    if params.task_classes:
        tasks = named_tasks(_as_known(params.task_classes, info["classes"]), info["classes"])
    else:
        tasks = cut(class_order(info["groups"], generator(params.seed, "split")), params.classes_per_task)
    check_chain(params.tasks, params.num_tasks, available=len(tasks))
    files = {"train": artifacts.load_tensors(artifacts.RAW_TRAIN), "test": artifacts.load_tensors(artifacts.RAW_TEST)}
    train, test = ((Images.from_tensors(file), file["labels"]) for file in files.values())
    if params.evaluate_on == "validation":
        train, test = (
            (train[0][rows], train[1][rows]) for rows in hold_out(train[1], generator(params.seed, "validation"))
        )

    for (_, labels), kind in ((train, "training"), (test, params.evaluate_on)):
        counts = torch.bincount(labels, minlength=len(info["classes"]))[
            [c for classes in tasks for c in classes]
        ].tolist()
        if 0 in counts:
            name = [info["classes"][c] for classes in tasks for c in classes][counts.index(0)]
            raise UserError(f"class {name!r} has no {kind} image: add some, or drop the class")

    names = [[info["classes"][c] for c in classes] for classes in tasks]
    artifacts.save_json(artifacts.TASKS, {task_name(t): classes for t, classes in enumerate(names)})
    for task, classes in enumerate(tasks):
        learned = [c for earlier in tasks[: task + 1] for c in earlier] if params.order == "joint" else classes
        rows, labels = rows_of(train[1], learned)
        artifacts.save_images(artifacts.train_file(task_name(task)), train[0][rows].contents(), {"labels": labels})
    rows, labels = rows_of(test[1], [c for classes in tasks for c in classes])
    of_class = torch.arange(len(tasks)).repeat_interleave(torch.tensor([len(classes) for classes in tasks]))
    fields = {"labels": labels, "tasks": of_class[labels]}
    artifacts.save_images(artifacts.TEST, test[0][rows].contents(), fields)
    sizes = ", ".join(str(len(classes)) for classes in tasks)
    print(f"{len(tasks)} tasks of {sizes} classes, evaluated on {params.evaluate_on} images")


if __name__ == "__main__":
    run(main)
