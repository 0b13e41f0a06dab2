"""Cut the images into tasks: one packed file of training images per task, and one of all test images.

It also writes the empty artifacts from which the chains of tasks start.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal
from unicodedata import normalize

import torch
from pydantic import Field
from torch import Tensor

from pipeline.data import test_images
from pipeline.data.class_orders import ordered
from pipeline.data.held_out import hold_out
from pipeline.data.images import Images
from pipeline.data.packing import rows_of
from pipeline.data.stream import Labelled, Stream, class_stream, domain_stream
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

CHAINS = (  # files of which a task's adds to that of the task before
    artifacts.keys_file,
    artifacts.selector_file,
    artifacts.bank_file,
    artifacts.auxiliary_heads_file,
    artifacts.features_file,
    artifacts.heads_file,
)


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
    check_chain(params.tasks, params.num_tasks)
    train, test = load_splits(params)
    if domains := info.get("domains"):
        stream = domain_stream(
            train, test, domains, len(params.tasks), params.seed if params.task_order == "random" else None
        )
    else:
        stream = class_stream(train, test, tasks_of(params, info["classes"], info["groups"]))
    for kinds in stream.counts(train, test, params.evaluate_on):
        for (task, c), counts in kinds.items():
            check_counts(info["classes"][c], counts, task_name(task) if stream.repeats else "")

    names = [[info["classes"][c] for c in classes] for classes in stream.tasks]
    artifacts.save_json(artifacts.TASKS, {task_name(t): classes for t, classes in enumerate(names)})
    artifacts.save_json(artifacts.DOMAINS, {task_name(t): domain for t, domain in enumerate(stream.domains)})
    artifacts.save_json(artifacts.IMAGE_COUNTS, image_counts(stream, params.evaluate_on))
    save_tasks(stream, train, test, is_joint=params.order == "joint")
    for file in CHAINS:
        artifacts.save_tensors(file("t0"), {})
    sizes = ", ".join(str(len(classes)) for classes in stream.tasks)
    print(f"{len(stream.tasks)} tasks of {sizes} classes, evaluated on {params.evaluate_on} images")


def image_counts(stream: Stream, evaluate_on: str) -> dict[str, dict[str, int]]:
    """Images of each task, for training and for evaluation; only for training if no test image is a task's."""
    sides = {"training": stream.train, **({} if stream.shares_test else {evaluate_on: stream.test})}
    return {task_name(t): {name: int((of == t).sum()) for name, of in sides.items()} for t in range(len(stream.tasks))}


def save_tasks(stream: Stream, train: Labelled, test: Labelled, *, is_joint: bool) -> None:
    """Write the training images of each task, and the test images of all tasks.

    `labels` of training images count from 0 within the task, and `classes` are their numbers among all classes. The
    `tasks` of test images are -1 if they are of no task, and count after every step.
    """
    numbers = stream.numbers()
    for task, classes in enumerate(stream.tasks):
        learned = list(dict.fromkeys(c for t in stream.tasks[: task + 1] for c in t)) if is_joint else classes
        mine = stream.train <= task if is_joint else stream.train == task
        rows, labels = rows_of(train.labels.where(mine & (stream.train >= 0), -1), learned)
        of_all = torch.tensor([numbers[c] for c in learned])[labels]
        fields = {"labels": labels, "classes": of_all}
        artifacts.save_images(artifacts.train_file(task_name(task)), train.images[rows].contents(), fields)
    parts = []
    for task, classes in stream.tested():
        rows, labels = rows_of(test.labels.where(stream.test == task, -1), classes)
        parts.append((rows, torch.tensor([numbers[c] for c in classes])[labels], torch.full_like(rows, task)))
    rows, labels, tasks = (torch.cat(column) for column in zip(*parts, strict=True))
    artifacts.save_images(artifacts.TEST, test.images[rows].contents(), {"labels": labels, "tasks": tasks})
    come_with = tasks.clamp(min=0)  # images of no task come with the first
    for task in range(len(stream.tasks)):
        test_images.save_digest(task_name(task), test.images[rows[come_with == task]])


def tasks_of(params: Params, classes: Sequence[str], groups: Sequence[str]) -> list[list[int]]:
    """The classes of each task, by number. Raises UserError if there are not enough for the chain."""
    if params.task_classes:
        wanted = _as_known(params.task_classes, classes)
        tasks = named_tasks(wanted if params.task_order == "given" else shuffled_tasks(wanted, params.seed), classes)
        check_named(len(params.tasks), len(tasks))
        return tasks
    check_classes(len(params.tasks), len(classes), params.classes_per_task, params.first_task_classes)
    order = ordered(params.class_order, classes, groups, params.seed)
    return cut(order, params.classes_per_task, params.first_task_classes)


def load_splits(params: Params) -> tuple[Labelled, Labelled]:
    """Images for training, and those for evaluation."""
    raw = artifacts.load_tensors(artifacts.RAW_TRAIN)
    train = _labelled(raw)
    if params.evaluate_on == "validation":
        of_cells = train.labels if train.domains is None else train.labels * (1 + train.domains.max()) + train.domains
        rest, held_out = hold_out(of_cells, raw["contents"], params.seed)
        return train.some(rest), train.some(held_out)
    return train, _labelled(artifacts.load_tensors(artifacts.RAW_TEST))


def _labelled(raw: Mapping[str, Tensor]) -> Labelled:
    return Labelled(Images.from_tensors(raw), raw["labels"], raw.get("domains"))


def check_counts(name: str, counts: Mapping[str, int], task: str = "") -> None:
    """Raises UserError for a class without training images or without images to evaluate on.

    task: the one that lacks images, if the class comes in several.
    """
    for kind, count in counts.items():
        if not count:
            others = ", ".join(f"{number} {other}" for other, number in counts.items() if other != kind)
            where = f" in {task}" if task else ""
            raise UserError(f"class {name!r} has no {kind} image{where} (but {others}): add some, or drop the class")


if __name__ == "__main__":
    run(main)
