"""Types shared by the parts of the check: the setup, a measurement, and a row of its result."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from benchmarks.speed.ratios import Row

Full = TypeVar("Full")
StartMethod = Literal["fork", "spawn"]


@dataclass(frozen=True)
class Setup:
    """The device, and the files to measure on."""

    device: str  # cuda, or cpu: everything in miniature
    images: Path | None  # train/CLASS/*, test/CLASS/*
    weights: Path | None  # of timm's vit_tiny_patch16_224
    start_method: StartMethod  # of multiprocessing, for processes that use the device
    missing: tuple[str, ...] = ()  # optional modules that are not here

    @property
    def context(self) -> ForkContext | SpawnContext:
        """The multiprocessing context for processes that use the device."""
        return get_context("fork") if self.start_method == "fork" else get_context("spawn")

    def size(self, full: Full, miniature: Full) -> Full:
        """The value for a GPU, or that for the miniature."""
        return miniature if self.device == "cpu" else full


class Measurement(NamedTuple):
    """A single measurement. It begins only while there is time, and its failure does not stop the others."""

    name: str
    measure: Callable[[], Iterable[Row]]
    why_not: str = ""  # what is missing to do it


def figure(
    name: str,
    value: float | str,
    unit: str = "",
    *,
    goal: str = "",
    spread: tuple[float, float] | None = None,
    note: str = "",
) -> Row:
    """A row of a part's table. A later row of the same name and unit replaces it."""
    return {"name": name, "value": value, "unit": unit, "goal": goal, "spread": spread, "note": note}


def of_ratio(row: Mapping[str, Any]) -> Row:
    """A row of the other benchmarks (benchmarks.speed.ratios) as one of these."""
    spread = row["spread"] and (round(row["spread"][0], 3), round(row["spread"][1], 3))
    return figure(row["name"], row["ratio"], row["unit"], goal=row["goal"], spread=spread)
