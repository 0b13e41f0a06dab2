"""Which classes make up which task, and the chain of tasks that params.yaml spells out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

Chain = dict[str, dict[str, str]]  # {"t1": {"prev": "t0"}, "t2": {"prev": "t1"}, ...}
MOST_TASKS = 1000  # DVC takes hours to read a chain of more


def task_name(task: int) -> str:
    """Name of zero-based task 0, 1, ...: t1, t2, ... (t0 is the state before any task)."""
    return f"t{task + 1}"


def task_index(name: str) -> int:
    """Zero-based task of the name t1, t2, ..."""
    if not re.fullmatch("t[1-9][0-9]{0,5}", name):
        raise UserError(f"{name!r} is not a task: expected t1, t2, ...")
    return int(name[1:]) - 1


def chain(num_tasks: int) -> Chain:
    """The chain of this length: every task starts from the one before."""
    return {f"t{t}": {"prev": f"t{t - 1}"} for t in range(1, num_tasks + 1)}


def check_chain(tasks: Chain, num_tasks: int, available: int) -> None:
    """Raises UserError unless `tasks` is a chain, covers `num_tasks` and the data set has classes for all of it."""
    remedy = "`python -m pipeline plan N` writes num_tasks and tasks for N tasks"
    if tasks != chain(len(tasks)) or not tasks:
        raise UserError(f"params.yaml: tasks is not a chain t1: {{prev: t0}}, t2: {{prev: t1}}, ...: {remedy}")
    if num_tasks > len(tasks):
        raise UserError(f"params.yaml: num_tasks is {num_tasks}, but tasks ends at t{len(tasks)}: {remedy}")
    if len(tasks) > available:
        raise UserError(
            f"params.yaml: tasks has {len(tasks)} tasks, the data set only classes for {available}: {remedy}"
        )


def class_order(groups: Sequence[str], generator: torch.Generator) -> list[int]:
    """Classes in random order, those of a group together and the groups in random order.

    groups: the group of each class. A data set whose classes come in domains has a group for each domain, so that tasks
    of one domain follow one another; all others have a single group, and the order is a plain permutation.
    """
    import torch  # noqa: PLC0415  (`python -m pipeline plan` does without)

    names = sorted(set(groups))
    order: list[int] = []
    for index in torch.randperm(len(names), generator=generator).tolist():
        members = [c for c, group in enumerate(groups) if group == names[index]]
        order += [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
    return order


def named_tasks(wanted: Sequence[Sequence[str]], classes: Sequence[str]) -> list[list[int]]:
    """The classes of each task, given by their names. Raises UserError for a name that is unknown or comes twice."""
    numbers = {name: index for index, name in enumerate(classes)}
    names = [name for task in wanted for name in task]
    for position, name in enumerate(names):
        if name not in numbers:
            close = difflib.get_close_matches(name, classes, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "data/raw/classes.json lists them"
            raise UserError(f"params.yaml: task_classes: the data set has no class {name!r}: {hint}")
        if name in names[:position]:
            raise UserError(f"params.yaml: task_classes: class {name!r} comes twice: a class belongs to one task")
    return [[numbers[name] for name in task] for task in wanted]


def cut(order: Sequence[int], classes_per_task: int) -> list[list[int]]:
    """The order in pieces of `classes_per_task` classes; the last may be smaller."""
    return [list(order[start : start + classes_per_task]) for start in range(0, len(order), classes_per_task)]
