"""Runs stages one after another in a valid order, without DVC."""

import importlib
from collections.abc import Collection

from pipeline.tasks import chain

Call = tuple[str, ...]  # a stage, and its task if it has one

BEFORE_TASKS = ("method", "code", "download", "split")
OF_A_TASK = ("queries", "keys", "stage_one", "features", "stage_two")
AFTER_TASKS = ("rematch", "evaluate", "report")


def in_order(num_tasks: int) -> list[Call]:
    """All stages of a pipeline of `num_tasks` tasks."""
    of_tasks = [(stage, task) for stage in OF_A_TASK for task in chain(num_tasks)]
    return [*((stage,) for stage in BEFORE_TASKS), *of_tasks, *((stage,) for stage in AFTER_TASKS)]


LEARNING = (*OF_A_TASK, "rematch", "evaluate")  # from images cut into tasks to accuracy
AFTER_LAYERNORMS = ("keys", "features", "stage_two", "rematch", "evaluate")  # what another classifier may change


def run_stages(num_tasks: int, names: Collection[str]) -> None:
    """Run all stages of these names in order, in this process, in the working folder."""
    for stage, *task in in_order(num_tasks):
        if stage in names:
            run_stage(stage, *task)


def run_stage(stage: str, *task: str) -> None:
    """Run a stage in this process, in the working folder."""
    importlib.import_module(f"stages.{stage}").main(*task)
