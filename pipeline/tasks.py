"""Which classes make up which task, and the chain of tasks that params.yaml spells out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from pipeline.errors import UserError
from pipeline.seeds import rank

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
    """The chain of this length. Each task starts from the one before."""
    return {f"t{t}": {"prev": f"t{t - 1}"} for t in range(1, num_tasks + 1)}


def check_chain(tasks: object, num_tasks: object) -> None:
    """Raises UserError unless `tasks` is a chain and covers `num_tasks`, which may be of any type."""
    remedy = "`python -m pipeline plan N` writes num_tasks and tasks for N tasks"
    if not isinstance(tasks, dict) or not tasks or tasks != chain(len(tasks)):
        raise UserError(f"params.yaml: tasks is not a chain t1: {{prev: t0}}, t2: {{prev: t1}}, ...: {remedy}")
    if type(num_tasks) is not int or num_tasks < 1:
        raise UserError(f"params.yaml: num_tasks is {num_tasks!r}, expected a number from 1 to {len(tasks)}: {remedy}")
    if num_tasks > len(tasks):
        raise UserError(f"params.yaml: num_tasks is {num_tasks}, but tasks ends at t{len(tasks)}: {remedy}")


def check_named(wanted: int, named: int) -> None:
    """Raises UserError unless `task_classes` names classes for as many tasks as the chain has."""
    if wanted > named:
        raise UserError(
            f"params.yaml: tasks has {wanted} tasks, but task_classes names the classes of only {named}: name those of "
            f"{wanted - named} more there, or run `python -m pipeline plan {named}`"
        )


def check_classes(wanted: int, classes: int, classes_per_task: int, first: int = 0) -> None:
    """Raises UserError unless the data set has classes for as many tasks as the chain has.

    first: classes of the first task; 0: as many as the others have.
    """
    if first:
        _check_with_first(wanted, classes, classes_per_task, first)
        return
    available = _count(classes, classes_per_task)
    if wanted > available:
        raise UserError(
            f"params.yaml: tasks has {wanted} tasks, but the data set has classes for only {available} ({classes} "
            f"classes, classes_per_task: {classes_per_task}): {_remedies(wanted, classes, classes_per_task)}"
        )


def _remedies(wanted: int, classes: int, classes_per_task: int) -> str:
    """Ways to make data set and chain fit: fewer classes per task, a shorter chain, both, or tasks given by name."""
    fitting, available = classes // wanted, _count(classes, classes_per_task)
    fewer = [fitting] if fitting > 1 else [n for n in (2, 3) if n < min(classes, classes_per_task)]
    found = []
    for n in fewer:
        tasks = _count(classes, n)
        shorter = f" and run `python -m pipeline plan {tasks}`" if tasks < wanted else ""
        found.append(f"set classes_per_task to {n}{shorter}")
    if available > 1 or not fewer:
        found.append(f"run `python -m pipeline plan {available}`")
    return ", or ".join([*found, "name the classes of each task in task_classes"])


def _check_with_first(wanted: int, classes: int, classes_per_task: int, first: int) -> None:
    available = 1 + _count(max(0, classes - first), classes_per_task)
    if wanted > available:
        raise UserError(
            f"params.yaml: tasks has {wanted} tasks, but the data set has classes for only {available} ({classes} "
            f"classes, first_task_classes: {first}, classes_per_task: {classes_per_task}): lower one of the two, or "
            f"run `python -m pipeline plan {available}`"
        )


def _count(classes: int, classes_per_task: int) -> int:
    return -(-classes // classes_per_task)


def class_order(names: Sequence[str], groups: Sequence[str], seed: int) -> list[int]:
    """Classes in random order. Classes of one group stay together, and the groups are in random order.

    names, groups: one per class. A data set whose classes come in domains has one group per domain, so that the tasks
    of a domain follow one another; every other data set has a single group. Each class and each group is ranked by its
    own name, so their order does not change when others come or go.
    """
    return sorted(
        range(len(names)),
        key=lambda c: (rank(seed, "order of groups", groups[c]), rank(seed, "order of classes", names[c]), c),
    )


def shuffled_tasks(tasks: Sequence[list[str]], seed: int) -> list[list[str]]:
    """Tasks in random order, each ranked by the first class that it names.

    A task therefore keeps its place among the others when tasks come or go and when classes are appended to it.
    """
    return sorted(tasks, key=lambda classes: rank(seed, "order of tasks", classes[0]))


def named_tasks(wanted: Sequence[Sequence[str]], classes: Sequence[str]) -> list[list[int]]:
    """The classes of each task, given by their names. A class may come again in a later task.

    Raises UserError for a name that is unknown or comes twice in a task.
    """
    numbers = {name: index for index, name in enumerate(classes)}
    for task in wanted:
        for position, name in enumerate(task):
            if name not in numbers:
                close = difflib.get_close_matches(name, classes, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "data/raw/classes.json lists them"
                raise UserError(f"params.yaml: task_classes: the data set has no class {name!r}: {hint}")
            if name in task[:position]:
                raise UserError(f"params.yaml: task_classes: class {name!r} is listed twice in one task")
    return [[numbers[name] for name in task] for task in wanted]


def cut(order: Sequence[int], classes_per_task: int, first: int = 0) -> list[list[int]]:
    """The order, cut into pieces of `classes_per_task` classes. The last may be smaller.

    first: classes of the first piece, as in B50 Inc5 (a base of 50, increments of 5); 0: as many as the others have.
    """
    base = [list(order[:first])] if first else []
    rest = range(first, len(order), classes_per_task)
    return base + [list(order[start : start + classes_per_task]) for start in rest]
