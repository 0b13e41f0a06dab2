"""The head after each step, in one file: what a step leaves as it was is stored once.

Most classifiers only add rows. Were every step's head stored whole, the file of task t would grow with the square of t.
A classifier that changes old rows, as a discriminant does, still stores every head whole.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear.head import Head


def append_step(before: Mapping[str, Tensor], head: Head) -> dict[str, Tensor]:
    """Add the head [C, D] of one more step to those stored so far (empty before the first).

    Where features get longer, the heads of earlier steps get zeros for what is new. The result holds rows, `weight` [R,
    D] and `bias` [R]; and int64 [T], where in them the head of each step begins and ends: `starts` and `ends`.
    """
    if not before:
        return _stored(head, torch.tensor([0]), torch.tensor([len(head.bias)]))
    longer = head.weight.shape[1] - before["weight"].shape[1]  # for features that a later task has made longer
    before = dict(before) | {"weight": functional.pad(before["weight"], (0, longer))}
    rows, start, end = _rows(before), before["starts"][-1:], before["ends"][-1:]
    old, new = rows.rows(int(start), int(end)), head
    if torch.equal(head.weight[: len(old.bias)], old.weight) and torch.equal(head.bias[: len(old.bias)], old.bias):
        new = head.rows(len(old.bias), len(head.bias))
    else:
        start = end  # the step begins behind all that is stored
    classes, tasks = (
        None if of_old is None or of_new is None else torch.cat([of_old, of_new])
        for of_old, of_new in ((rows.classes, new.classes), (rows.tasks, new.tasks))
    )
    rows = Head(torch.cat([rows.weight, new.weight]), torch.cat([rows.bias, new.bias]), None, classes, tasks)
    end = torch.tensor([len(rows.bias)])
    return _stored(rows, torch.cat([before["starts"], start]), torch.cat([before["ends"], end]))


def step_heads(stored: Mapping[str, Tensor], projection: Tensor | None = None) -> list[Head]:
    """The head after each step, [C, D] over the classes seen by then; all are views.

    projection: [D + 1, M], the random features that the heads are behind.
    """
    rows = _rows(stored)._replace(projection=projection)
    return [rows.rows(*ends) for ends in zip(stored["starts"].tolist(), stored["ends"].tolist(), strict=True)]


def _rows(stored: Mapping[str, Tensor]) -> Head:
    return Head(stored["weight"], stored["bias"], None, stored.get("classes"), stored.get("tasks"))


def _stored(rows: Head, starts: Tensor, ends: Tensor) -> dict[str, Tensor]:
    owners = {"classes": rows.classes, "tasks": rows.tasks}  # of heads whose rows belong to tasks
    kept = {name: of_rows for name, of_rows in owners.items() if of_rows is not None}
    return {"weight": rows.weight, "bias": rows.bias, "starts": starts, "ends": ends} | kept
