"""Random numbers that depend on the place and purpose of their use, not on what ran before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generator(seed: int, *scope: str | int) -> torch.Generator:
    """A generator for (seed, stage, task, ...). Tasks run in separate processes and share no stream.

    It is always on the CPU, so that a GPU gets the same numbers.
    """
    import torch  # noqa: PLC0415  (takes seconds, and rank() does not need it)

    digest = hashlib.sha256("/".join(map(str, (seed, *scope))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def rank(seed: int, purpose: str, item: str | int) -> float:
    """A number in [0, 1) for this item alone. Items sorted by rank keep their order when others come or go."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{item}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def draw_seed(generator: torch.Generator) -> int:
    """A seed for a library with its own generators (scikit-learn)."""
    import torch  # noqa: PLC0415  (as above)

    return int(torch.randint(2**31 - 1, (), generator=generator))
