"""Class order, cutting into tasks, the chain of tasks, and the messages on a wrong chain."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.packing import rows_of
from pipeline.errors import UserError
from pipeline.seeds import generator
from pipeline.tasks import (
    chain,
    check_chain,
    check_classes,
    check_named,
    class_order,
    cut,
    shuffled_tasks,
    task_index,
    task_name,
)


def test_chain() -> None:
    assert chain(3) == {"t1": {"prev": "t0"}, "t2": {"prev": "t1"}, "t3": {"prev": "t2"}}
    check_chain(chain(3), num_tasks=2)
    check_classes(3, classes=5, classes_per_task=2)
    check_named(3, 3)


NO_COUNTS: tuple[object, ...] = (None, "5", "", 1.5, True, [], {}, 0, -1)


@pytest.mark.parametrize(
    ("tasks", "num_tasks", "message"),
    [
        (chain(3), 4, "num_tasks is 4, but tasks ends at t3"),
        ({}, 1, "tasks is not a chain"),
        ({"t1": {"prev": "t0"}, "t3": {"prev": "t2"}}, 1, "tasks is not a chain"),
        ({"t1": {"prev": "t0"}, "t2": {"prev": "t0"}}, 1, "tasks is not a chain"),
        *((tasks, 1, "tasks is not a chain") for tasks in (None, "", "t1", 1, 1.5, True, [], ["t1"], [{"t1": "t0"}])),
        *((chain(3), count, "num_tasks is .*, expected a number from 1 to 3") for count in NO_COUNTS),
    ],
)
def test_a_wrong_chain_is_named_with_the_remedy(tasks: object, num_tasks: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        check_chain(tasks, num_tasks)
    assert "python -m pipeline plan" in str(raised.value)


PER_TASK, PLAN, NAMES = (
    "set classes_per_task to",
    "run `python -m pipeline plan",
    "name the classes of each task in task_",
)


@pytest.mark.parametrize(
    ("wanted", "classes", "per_task", "available", "remedies"),
    [
        (5, 6, 10, 1, f"{PER_TASK} 2 and {PLAN} 3`, or {PER_TASK} 3 and {PLAN} 2`, or {NAMES}classes"),
        (5, 6, 4, 2, f"{PER_TASK} 2 and {PLAN} 3`, or {PER_TASK} 3 and {PLAN} 2`, or {PLAN} 2`, or {NAMES}classes"),
        (5, 6, 2, 3, f"{PLAN} 3`, or {NAMES}classes"),
        (5, 100, 50, 2, f"{PER_TASK} 20, or {PLAN} 2`, or {NAMES}classes"),
        (5, 100, 100, 1, f"{PER_TASK} 20, or {NAMES}classes"),
        (5, 3, 10, 1, f"{PER_TASK} 2 and {PLAN} 2`, or {NAMES}classes"),
        (5, 1, 10, 1, f"{PLAN} 1`, or {NAMES}classes"),
    ],
)
def test_too_few_classes_name_the_cause_and_what_would_fit(
    wanted: int, classes: int, per_task: int, available: int, remedies: str
) -> None:
    with pytest.raises(UserError) as raised:
        check_classes(wanted, classes, per_task)
    assert str(raised.value) == (
        f"params.yaml: tasks has {wanted} tasks, but the data set has classes for only {available} "
        f"({classes} classes, classes_per_task: {per_task}): {remedies}"
    )


@given(st.integers(2, 9), st.integers(1, 30), st.integers(1, 40))
def test_what_is_advised_fits(wanted: int, classes: int, per_task: int) -> None:
    try:
        check_classes(wanted, classes, per_task)
    except UserError as error:
        for advice in str(error).rpartition("): ")[2].split(", or "):
            now = int((re.findall(r"classes_per_task to (\d+)", advice) or [per_task])[0])
            then = int((re.findall(r"plan (\d+)", advice) or [wanted])[0])
            if "task_classes" not in advice:
                check_classes(then, classes, now)
    else:
        assert (wanted - 1) * per_task < classes


def test_too_few_named_tasks() -> None:
    with pytest.raises(
        UserError, match=r"tasks has 3 tasks, but task_classes names the classes of only 1: name those of 2"
    ):
        check_named(3, 1)


def test_task_names() -> None:
    assert [task_index(task_name(task)) for task in range(12)] == list(range(12))
    assert task_name(-1) == "t0"
    for name in ("t0", "t", "1", "t-1", "t1x"):
        with pytest.raises(UserError, match="is not a task"):
            task_index(name)


NAMES_AND_GROUPS = st.dictionaries(st.text(max_size=4), st.sampled_from("abc"), min_size=1, max_size=20)


def in_order(groups: dict[str, str], seed: int) -> list[str]:
    return [list(groups)[c] for c in class_order(list(groups), list(groups.values()), seed)]


@given(NAMES_AND_GROUPS, st.integers(0, 99), st.integers(1, 7))
def test_every_class_is_in_one_task_and_groups_stay_together(groups: dict[str, str], seed: int, per_task: int) -> None:
    order = class_order(list(groups), list(groups.values()), seed)
    assert sorted(order) == list(range(len(groups)))
    of_class = [list(groups.values())[c] for c in order]
    assert sum(group != before for group, before in pairwise(["", *of_class])) == len(set(of_class))
    tasks = cut(order, per_task)
    assert [c for task in tasks for c in task] == order
    assert all(len(task) == per_task for task in tasks[:-1])
    assert 1 <= len(tasks[-1]) <= per_task


@given(NAMES_AND_GROUPS, st.text(max_size=4), st.sampled_from("abcd"), st.integers(0, 99))
def test_a_class_that_comes_or_goes_leaves_the_others_in_their_order(
    groups: dict[str, str], name: str, group: str, seed: int
) -> None:
    without = {other: of for other, of in groups.items() if other != name}
    more = in_order({name: group, **without}, seed)
    assert [other for other in more if other != name] == in_order(without, seed)


@given(st.lists(st.text(max_size=4), min_size=3, max_size=9, unique=True), st.integers(0, 99))
def test_a_task_that_comes_or_grows_leaves_the_others_in_their_order(names: list[str], seed: int) -> None:
    *tasks, last = [[name] for name in names]
    order = shuffled_tasks(tasks, seed)
    assert sorted(order) == sorted(tasks)
    assert [task for task in shuffled_tasks([*tasks, last], seed) if task != last] == order
    assert [task[:1] for task in shuffled_tasks([[*tasks[0], *last], *tasks[1:]], seed)] == order


def test_the_orders_depend_on_the_seed() -> None:
    names = [str(c) for c in range(20)]
    assert len({tuple(class_order(names, [""] * 20, seed)) for seed in range(5)}) == 5
    assert len({str(shuffled_tasks([[name] for name in names], seed)) for seed in range(5)}) == 5
    groups = [str(c % 10) for c in range(20)]
    assert len({tuple(groups[c] for c in class_order(names, groups, seed)) for seed in range(5)}) == 5


def test_streams_differ_by_seed_stage_and_task_and_repeat() -> None:
    scopes: list[tuple[int, str, *tuple[int, ...]]] = [
        (0, "stage_one", 0),
        (0, "stage_one", 1),
        (0, "stage_two", 0),
        (1, "stage_one", 0),
        (11, "stage_one"),
        (1, "1stage_one"),
    ]
    draws = [torch.rand(4, generator=generator(*scope)) for scope in scopes]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(scopes)
    assert torch.equal(draws[0], torch.rand(4, generator=generator(*scopes[0])))


def test_taking_classes_orders_and_renumbers() -> None:
    rows, labels = rows_of(torch.tensor([1, 2, 1, 3, 1]), [3, 1])
    assert rows.tolist() == [3, 0, 2, 4]
    assert labels.tolist() == [0, 1, 1, 1]
