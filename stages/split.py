"""Cut the classes into tasks: one packed file of training images per task, and one of all test images."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal
from unicodedata import normalize

import torch
from pydantic import Field
from torch import Tensor

from pipeline.data.class_orders import ordered
from pipeline.data.held_out import hold_out
from pipeline.data.images import Images
from pipeline.data.packing import rows_of
from pipeline.errors import UserError
from pipeline.params import Count, Record, Seed, read_params
from pipeline.runtime.command import run
from pipeline.store import artifacts
from pipeline.tasks import (
    Chain,
    check_chain,
    check_classes,
    check_named,
    cut,
    named_tasks,
    shuffled_tasks,
    task_name,
)

Split = tuple[Images, Tensor]  # N images and their labels, int64 [N]


class Params(Record):
    """How to cut the classes into tasks."""

    seed: Seed
    classes_per_task: Count
    first_task_classes: int = Field(ge=0, le=1_000_000)
    class_order: str
    task_classes: list[Annotated[list[str], Field(min_length=1)]]
    task_order: Literal["given", "random"]
    num_tasks: Count
    tasks: Chain
    evaluate_on: Literal["test", "validation"]
    order: Literal["sequential", "joint"]


def _as_known(wanted: Sequence[Sequence[str]], classes: Sequence[str]) -> list[list[str]]:
    """The names as the data set spells them: names in decomposed Unicode are composed."""
    return [[name if name in classes else normalize("NFC", name) for name in names] for names in wanted]


def main() -> None:
    """Cut the data set into tasks."""
    params = read_params(Params)
    info = artifacts.load_json(artifacts.RAW_CLASSES)
    tasks = tasks_of(params, info["classes"], info["groups"])
    train, test = load_splits(params)
    counts = {
        kind: torch.bincount(labels, minlength=len(info["classes"]))
        for kind, (_, labels) in (("training", train), (params.evaluate_on, test))
    }
    for c in (c for classes in tasks for c in classes):
        check_counts(info["classes"][c], {kind: int(of_class[c]) for kind, of_class in counts.items()})

    names = [[info["classes"][c] for c in classes] for classes in tasks]
    artifacts.save_json(artifacts.TASKS, {task_name(t): classes for t, classes in enumerate(names)})
    of_tasks = {
        task_name(t): {kind: int(of_class[classes].sum()) for kind, of_class in counts.items()}
        for t, classes in enumerate(tasks)
    }
    artifacts.save_json(artifacts.IMAGE_COUNTS, of_tasks)
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


def tasks_of(params: Params, classes: Sequence[str], groups: Sequence[str]) -> list[list[int]]:
    """The classes of each task, by number. Raises UserError if there are not enough for the chain."""
    check_chain(params.tasks, params.num_tasks)
    if params.task_classes:
        wanted = _as_known(params.task_classes, classes)
        tasks = named_tasks(wanted if params.task_order == "given" else shuffled_tasks(wanted, params.seed), classes)
        check_named(len(params.tasks), len(tasks))
        return tasks
    check_classes(len(params.tasks), len(classes), params.classes_per_task, params.first_task_classes)
    order = ordered(params.class_order, classes, groups, params.seed)
    return cut(order, params.classes_per_task, params.first_task_classes)


def load_splits(params: Params) -> tuple[Split, Split]:
    """Images and labels for training, and those for evaluation."""
    train = artifacts.load_tensors(artifacts.RAW_TRAIN)
    images, labels = Images.from_tensors(train), train["labels"]
    if params.evaluate_on == "validation":
        rest, held_out = hold_out(labels, train["contents"], params.seed)
        return (images[rest], labels[rest]), (images[held_out], labels[held_out])
    test = artifacts.load_tensors(artifacts.RAW_TEST)
    return (images, labels), (Images.from_tensors(test), test["labels"])


def check_counts(name: str, counts: Mapping[str, int]) -> None:
    """Raises UserError for a class without training images or without images to evaluate on."""
    for kind, count in counts.items():
        if not count:
            others = ", ".join(f"{number} {other}" for other, number in counts.items() if other != kind)
            raise UserError(f"class {name!r} has no {kind} image (but {others}): add some, or drop the class")


if __name__ == "__main__":
    run(main)
