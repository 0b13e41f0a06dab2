"""The cost of a task as tasks add up: the stages of early and late tasks in a chain of fifty."""

import importlib
import io
import statistics
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from functools import partial

from benchmarks.speed.ratios import Row, row, seconds
from harness.clone import clone, configure, run_dvc, run_plan
from pipeline.store import artifacts
from pipeline.tasks import task_name

NUM_TASKS = 50
MARKS = (5, 10, 20, 50)
WINDOW = 5  # the median is taken over this many tasks up to a mark


def rows() -> Iterator[Row]:
    """Seconds of each stage for tasks up to a mark, as a multiple of those up to the first mark."""
    folder = clone("growth")
    configure(folder, classes_per_task=2)
    run_plan(folder, NUM_TASKS)
    run_dvc(folder, "repro", "keys")
    took: dict[str, list[float]] = {"stage_one": [], "features": [], "stage_two": []}
    with chdir(folder), redirect_stdout(io.StringIO()):
        for task in range(NUM_TASKS):
            for stage, list_of_seconds in took.items():
                main = importlib.import_module(f"stages.{stage}").main
                list_of_seconds.append(seconds(partial(main, task_name(task))))
        importlib.import_module("stages.rematch").main()
        evaluation = seconds(importlib.import_module("stages.evaluate").main)
        passes = artifacts.load_json(artifacts.EVALUATION)["metrics"]["passes_per_image"]
    run_dvc(folder, "commit", "-f", "-q", "--with-deps", "evaluate")  # as if DVC had run these stages
    nothing = statistics.median(seconds(partial(run_dvc, folder, "repro", "-q", "evaluate")) for _ in range(3))
    for stage, goal in (("stage_one", "<= 1.2"), ("features", ""), ("stage_two", "")):
        of_marks = [statistics.median(took[stage][mark - WINDOW : mark]) for mark in MARKS]
        for mark, value in zip(MARKS[1:], of_marks[1:], strict=True):
            yield row(f"{stage}, task {mark} / task {MARKS[0]}, glyphs", value / of_marks[0], goal, "x time")
    yield row(
        "passes per image for the matrix of 50 tasks / by re-evaluating", passes / (1 + (NUM_TASKS + 1) / 2), "", "x"
    )
    yield row(
        "`dvc repro` of 50 tasks with nothing to do / stage one of one",
        nothing / statistics.median(took["stage_one"]),
        "",
        "x time",
    )
    yield row(
        "evaluation of 50 tasks / stage one of one", evaluation / statistics.median(took["stage_one"]), "", "x time"
    )
