"""Part 5: whether the same seed gives the same bytes on this device; if not, the difference and its first operation."""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from benchmarks.faults.determinism import SMALLER, compare, contents
from benchmarks.gpu.data import Benchmark, default
from benchmarks.gpu.measuring import Measurement, Setup, figure
from benchmarks.gpu.operations import differing, operations
from benchmarks.speed.ratios import Row
from benchmarks.speed.step_costs import Workload, stage_one, workload
from harness import plain_project
from harness.stage_order import LEARNING, in_order, run_stage

TITLE = "Two runs with one seed"


def measurements(setup: Setup) -> Iterator[Measurement]:
    """Whole runs first: their processes must be started before this one uses the device."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        benchmark = default(setup, folder)
        yield Measurement(
            "every stage in a process of its own, twice",
            lambda: two_runs(setup, benchmark, folder),
            benchmark.why_not,
        )
        yield Measurement("the operations of a step, twice", lambda: two_steps(setup.size(256, 8)))


def two_runs(setup: Setup, benchmark: Benchmark, folder: Path) -> Iterator[Row]:
    """Run the same parameters and images in two folders, and compare their files.

    This process computes nothing, since a process whose threads have computed cannot be forked.
    """
    params: dict[str, Any] = {**SMALLER, **benchmark.params, "num_tasks": setup.size(SMALLER["num_tasks"], 1)}
    one, other = folder / "one", folder / "other"
    plain_project.make(one, **params)
    for stage in ("method", "code", "download", "split"):
        in_a_process(setup, one, stage)
    shutil.copytree(one, other)
    for where in (one, other):
        for stage, *task in in_order(params["num_tasks"]):
            if stage in LEARNING:
                in_a_process(setup, where, stage, *task)
    difference = compare(one, other)
    yield figure("files", len(contents(one)))
    yield figure("files that differ", len(difference.files), goal="0", note=", ".join(difference.files[:5]))
    tensors = difference.tensors if math.isfinite(difference.tensors) else "other shapes: other passes were needed"
    yield figure("tensors differ by, as a share of their largest value", tensors, goal="0")
    yield figure("metrics differ by", 100 * difference.metrics, "points", goal="0")


def in_a_process(setup: Setup, folder: Path, stage: str, *task: str) -> None:
    """Run a stage in a process of its own."""
    process = setup.context.Process(target=stage_in, args=(folder, stage, *task))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"stage {' '.join((stage, *task))} ended with exit code {process.exitcode}")


def stage_in(folder: Path, stage: str, *task: str) -> None:
    """Run the stage in that process."""
    with chdir(folder), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        run_stage(stage, *task)


def two_steps(images: int) -> Iterator[Row]:
    """Compare an epoch of stage one of the embedded backbone with itself, operation by operation."""
    work = workload("glyph_vit")
    few = Workload(work.name, work.backbone, work.pixels[:images], work.labels[:images], work.names)
    one, other = (operations(lambda: stage_one(few, few.names)) for _ in range(2))
    names = differing(one, other)
    yield figure("operations of an epoch", len(one), note=f"{images} images")
    yield figure("operations whose results differ", len(names), goal="0", note=f"first: {names[0]}" if names else "")
