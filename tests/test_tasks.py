"""Class order, cutting, the chain of tasks, and what is said of a wrong chain."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.packing import hold_out, rows_of
from pipeline.seeds import generator
from pipeline.tasks import Chain, chain, check_chain, class_order, cut, task_index, task_name


def test_chain() -> None:
    assert chain(3) == {"t1": {"prev": "t0"}, "t2": {"prev": "t1"}, "t3": {"prev": "t2"}}
    check_chain(chain(3), num_tasks=2, available=3)


@pytest.mark.parametrize(
    ("tasks", "num_tasks", "available", "message"),
    [
        (chain(3), 4, 9, "num_tasks is 4, but tasks ends at t3"),
        (chain(3), 3, 2, "tasks has 3 tasks, the data set only classes for 2"),
        ({}, 1, 9, "tasks is not a chain"),
        ({"t1": {"prev": "t0"}, "t3": {"prev": "t2"}}, 1, 9, "tasks is not a chain"),
        ({"t1": {"prev": "t0"}, "t2": {"prev": "t0"}}, 1, 9, "tasks is not a chain"),
    ],
)
def test_a_wrong_chain_is_named_with_the_remedy(tasks: Chain, num_tasks: int, available: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        check_chain(tasks, num_tasks, available)
    assert "python -m pipeline plan" in str(raised.value)


def test_task_names() -> None:
    assert [task_index(task_name(task)) for task in range(12)] == list(range(12))
    assert task_name(-1) == "t0"
    for name in ("t0", "t", "1", "t-1", "t1x"):
        with pytest.raises(UserError, match="is not a task"):
            task_index(name)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), st.integers(0, 99), st.integers(1, 7))
def test_every_class_is_in_one_task_and_groups_stay_together(groups: list[str], seed: int, per_task: int) -> None:
    order = class_order(groups, generator(seed))
    assert sorted(order) == list(range(len(groups)))
    runs = [
        name for index, name in enumerate(groups[c] for c in order) if index == 0 or name != groups[order[index - 1]]
    ]
    assert len(runs) == len(set(groups))
    tasks = cut(order, per_task)
    assert [c for task in tasks for c in task] == order
    assert all(len(task) == per_task for task in tasks[:-1])
    assert 1 <= len(tasks[-1]) <= per_task


def test_the_order_depends_on_the_seed() -> None:
    orders = {tuple(class_order(["x"] * 20, generator(seed))) for seed in range(5)}
    assert len(orders) == 5


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


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99))
def test_held_out_images_are_a_fifth_of_each_class_and_apart(labels: list[int], seed: int) -> None:
    rest, held_out = hold_out(torch.tensor(labels), generator(seed))
    assert sorted([*rest.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        assert (torch.tensor(labels)[held_out] == label).sum() == max(1, round(0.2 * labels.count(label)))


def test_taking_classes_orders_and_renumbers() -> None:
    rows, labels = rows_of(torch.tensor([1, 2, 1, 3, 1]), [3, 1])
    assert rows.tolist() == [3, 0, 2, 4]
    assert labels.tolist() == [0, 1, 1, 1]
