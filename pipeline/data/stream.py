"""Which image belongs to which task: tasks are sets of classes, or domains. A class may come again in a later task."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.seeds import rank


class Labelled(NamedTuple):
    """N images, with their classes and domains as the data set numbers them."""

    images: Images
    labels: Tensor  # int64 [N]
    domains: Tensor | None  # int64 [N]

    def some(self, rows: Tensor) -> "Labelled":
        """The images of these rows."""
        return Labelled(self.images[rows], self.labels[rows], None if self.domains is None else self.domains[rows])


class Stream(NamedTuple):
    """The tasks, and the task of each image (-1: none)."""

    tasks: list[list[int]]  # classes of each task, as the data set numbers them
    train: Tensor  # [N]
    test: Tensor  # [M]; all -1 if the test set is shared
    domains: list[str]  # name of each task's domain; empty if tasks are sets of classes
    shares_test: bool = False  # whether the test images are of domains that no task trains, and count after every step

    def tested(self) -> list[tuple[int, list[int]]]:
        """Each task with the classes of its test images; one of all classes for -1 if the test set is shared."""
        return [(-1, list(self.numbers()))] if self.shares_test else list(enumerate(self.tasks))

    @property
    def repeats(self) -> bool:
        """Whether a class comes in several tasks."""
        return sum(map(len, self.tasks)) > len(self.numbers())

    def numbers(self) -> dict[int, int]:
        """The number of each class in the order in which they come first, which heads and statistics use."""
        return {c: number for number, c in enumerate(dict.fromkeys(c for classes in self.tasks for c in classes))}

    def counts(self, train: Labelled, test: Labelled, kind: str) -> Iterator[dict[tuple[int, int], dict[str, int]]]:
        """The images of each task and class, for sets of classes; a domain may lack test images of a class."""
        if not self.domains:
            for task, classes in enumerate(self.tasks):
                yield {
                    (task, c): {
                        "training": int(((self.train == task) & (train.labels == c)).sum()),
                        kind: int(((self.test == task) & (test.labels == c)).sum()),
                    }
                    for c in classes
                }


def class_stream(train: Labelled, test: Labelled, tasks: list[list[int]]) -> Stream:
    """Tasks are sets of classes. The images of a class that comes in several tasks are dealt out to them in turn."""
    return Stream(tasks, _dealt(train.labels, tasks), _dealt(test.labels, tasks), [])


def _dealt(labels: Tensor, tasks: Sequence[Sequence[int]]) -> Tensor:
    of_image = torch.full_like(labels, -1)
    for c in {c for classes in tasks for c in classes}:
        turns = torch.tensor([task for task, classes in enumerate(tasks) if c in classes])
        rows = (labels == c).nonzero().flatten()
        of_image[rows] = turns[torch.arange(len(rows)) % len(turns)]
    return of_image


def domain_stream(train: Labelled, test: Labelled, domains: Sequence[str], wanted: int, seed: int | None) -> Stream:
    """Tasks are domains, in the order of the data set, or ordered by seed. A task has the classes for which it has
    training images.

    wanted: tasks of the chain. Raises UserError for too few domains, or for one that cannot be tested.
    """
    if wanted > len(domains):
        raise UserError(
            f"params.yaml: tasks has {wanted} tasks, but the data set has only {len(domains)} domains: run "
            f"`python -m pipeline plan {len(domains)}`"
        )
    assert train.domains is not None
    order = list(range(len(domains)))
    if seed is not None:
        order.sort(key=lambda domain: rank(seed, "order of domains", domains[domain]))
    places = torch.tensor(order).argsort()
    tasks = [train.labels[train.domains == domain].unique().tolist() for domain in order]
    of_train = places[train.domains]
    of_test = torch.full_like(test.labels, -1) if test.domains is None else places[test.domains]
    for task, classes in enumerate(tasks):
        of_test[(of_test == task) & ~torch.isin(test.labels, torch.tensor(classes))] = -1
        for kind, found in (("training", of_train), *([] if test.domains is None else [("test", of_test)])):
            if not bool((found == task).any()):
                raise UserError(f"domain {domains[order[task]]!r} has no {kind} image: add some, or drop the domain")
    if test.domains is None and not bool(torch.isin(test.labels, train.labels).any()):
        raise UserError("the data set has no test image of a class that its domains train: add some")
    return Stream(tasks, of_train, of_test, [domains[domain] for domain in order], shares_test=test.domains is None)
