"""Ratios of two things measured in turn: the median over repetitions, and the spread."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

REPETITIONS = 7
CPUINFO = Path("/proc/cpuinfo")
Row = dict[str, Any]


def seconds(work: Callable[[], object]) -> float:
    """The duration of some work in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(works: Mapping[str, Callable[[], object]], repetitions: int = REPETITIONS) -> dict[str, list[float]]:
    """Seconds of each work, round by round, after a warm-up round."""
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(repetitions)]
    return {name: [of_round[name] for of_round in rounds] for name in works}


def compared(name: str, goal: str, one: Callable[[], object], other: Callable[[], object]) -> Row:
    """Time of one as a multiple of the other's, pair by pair, after a warm-up round."""
    took = in_turn({"one": one, "other": other})
    return over_pairs(name, goal, [a / b for a, b in zip(took["one"], took["other"], strict=True)])


def over_pairs(name: str, goal: str, ratios: list[float]) -> Row:
    """The median of ratios of times, and their spread."""
    return row(name, statistics.median(ratios), goal, "x time", (min(ratios), max(ratios)))


def row(name: str, ratio: float, goal: str, unit: str, spread: tuple[float, float] | None = None) -> Row:
    """A line of the table."""
    return {"name": name, "ratio": round(ratio, 3), "goal": goal, "unit": unit, "spread": spread}


def machine_name() -> str:
    """The machine: processor model, cores, and its float32 multiplication rate, as the model says little of speed."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    makes = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    make = " ".join((makes or [platform.machine()])[0].split())
    square = torch.ones(1024, 1024)
    fastest = min(seconds(lambda: square @ square) for _ in range(10))
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{make}, {os.cpu_count()} cores, {2 * len(square) ** 3 / fastest / 1e9:.0f} GFLOP/s{gpu}"
