"""The head after each step, in one file. Rows that a step does not change are stored once. Most classifiers only add
rows. If every step's head were stored whole, the file of task t would grow with the square of t. A classifier that
changes old rows, as a discriminant does, still stores every head whole.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear.head import Head


def append_step(before: Mapping[str, Tensor], head: Head) -> dict[str, Tensor]:
    """Add the head [C, D] of one more step to those stored so far (empty before the first).

    If features get longer, the heads of earlier steps get zeros for the new part. The result holds rows: `weight` [R,
    D], `bias` [R] and, if a head has them, its other tensors. It also says where among the rows the head of each step
    begins and ends, int64 [T]: `starts` and `ends`.
    """
    if not before:
        return _stored(head, torch.tensor([0]), torch.tensor([len(head.bias)]))
    longer = head.weight.shape[1] - before["weight"].shape[1]  # for features that a later task has made longer
    before = dict(before) | {"weight": functional.pad(before["weight"], (0, longer))}
    rows, start, end = _rows(before), before["starts"][-1:], before["ends"][-1:]
    old, new = rows.rows(int(start), int(end)), head
    kept = head.rows(0, len(old.bias)).tensors()
    if all(torch.equal(tensor, kept[name]) for name, tensor in old.tensors().items()):
        new = head.rows(len(old.bias), len(head.bias))
    else:
        start = end  # the step begins behind all that is stored
    more = new.tensors()
    rows = rows._replace(**{name: torch.cat([tensor, more[name]]) for name, tensor in rows.tensors().items()})
    end = torch.tensor([len(rows.bias)])
    return _stored(rows, torch.cat([before["starts"], start]), torch.cat([before["ends"], end]))


def step_heads(stored: Mapping[str, Tensor], projection: Tensor | None = None) -> list[Head]:
    """The head after each step, [C, D] over the classes seen by then; all are views.

    projection: [D + 1, M], the random features that the heads are behind.
    """
    rows = _rows(stored)._replace(projection=projection)
    return [rows.rows(*ends) for ends in zip(stored["starts"].tolist(), stored["ends"].tolist(), strict=True)]


def _rows(stored: Mapping[str, Tensor]) -> Head:
    others = {name: stored.get(name) for name in Head._fields if name not in ("weight", "bias")}
    return Head(stored["weight"], stored["bias"], **others)


def _stored(rows: Head, starts: Tensor, ends: Tensor) -> dict[str, Tensor]:
    return rows.tensors() | {"starts": starts, "ends": ends}
