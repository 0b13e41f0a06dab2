"""Random numbers that depend on where they are used, or for what, and not on what ran before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generator(seed: int, *scope: str | int) -> torch.Generator:
    """A CPU generator for (seed, stage, task, ...): tasks are processes of their own, and share no stream.

    On the CPU whatever the device, so that a GPU draws the same numbers.
    """
    import torch  # noqa: PLC0415  (seconds of imports, which ranks do without)

    digest = hashlib.sha256("/".join(map(str, (seed, *scope))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def rank(seed: int, purpose: str, item: str | int) -> float:
    """A number in [0, 1) for this item alone: in an order by ranks, no item that comes or goes moves another."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{item}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def draw_seed(generator: torch.Generator) -> int:
    """A seed for a library that has generators of its own (scikit-learn)."""
    import torch  # noqa: PLC0415  (as above)

    return int(torch.randint(2**31 - 1, (), generator=generator))
