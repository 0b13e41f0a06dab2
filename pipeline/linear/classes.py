"""Numbers of classes: those of a task among all classes so far, in the order in which they came first."""

import torch
from torch import Tensor


def numbers(classes: Tensor | None, known: int, count: int) -> Tensor:
    """The number of each of a task's classes [K] among all classes; None: all of them are new.

    known: classes before the task. New classes follow those that are known, in their own order.
    """
    if classes is None:
        return torch.arange(known, known + count)
    new = classes[classes >= known]
    assert torch.equal(new, torch.arange(known, known + len(new))), "new classes are numbered in their order"
    return classes


def add_columns(sums: Tensor, more: Tensor, classes: Tensor) -> Tensor:
    """Sums of all classes [..., C] plus those of a task's [..., K]: a class that comes again adds up, others follow."""
    known = sums.shape[-1]
    again = classes < known
    if bool(again.any()):
        sums = sums.index_add(sums.ndim - 1, classes[again], more[..., again])
    return torch.cat([sums, more[..., ~again]], dim=-1)
