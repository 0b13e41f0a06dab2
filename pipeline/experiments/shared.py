"""What the experiments of a grid share, as tasks that others wait for: the data set, then the queries of each split."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.experiments import node
from pipeline.experiments.queue import Cell, overrides
from pipeline.params import PARAMS_FILE, PIPELINE_FILE, read_mapping
from pipeline.runtime import code

SHARED = ("download", "split", "queries")  # stages that many experiments have in common, in order
_WAITED_FOR = ("download", "queries")


@dataclass(frozen=True)
class Task:
    """A job, and the one that it waits for."""

    job: node.Job
    after: str = ""


def plan(grid: Sequence[Cell]) -> dict[str, Task]:
    """The tasks of unfinished experiments by name, those that others wait for first."""
    params, sources = read_mapping(PARAMS_FILE), code.read_sources()
    tasks: dict[str, Task] = {}
    for cell in grid:
        values, arguments, after = params | dict(cell.changes) | {"seed": cell.seed}, overrides(cell), ""
        for stage in _WAITED_FOR:
            name = f"{stage}-{_digest(stage, values, sources, cell.inputs)}"
            tasks.setdefault(name, Task(node.Job(name=name, target=stage, overrides=arguments, returns=False), after))
            after = name
        tasks[cell.name] = Task(node.Job(name=cell.name, target="evaluate", overrides=arguments, returns=True), after)
    return _without_single(tasks)


def _digest(stage: str, values: Mapping[str, object], sources: code.Sources, inputs: str) -> str:
    """Digest of all that the shared stages up to this one depend on."""
    stages = SHARED[: SHARED.index(stage) + 1]
    declared = read_mapping(PIPELINE_FILE)["stages"]
    names = {name for each in stages for name in declared[each].get("do", declared[each])["params"]}
    whole = [{name: values[name] for name in names}, [code.digests(each, sources, values) for each in stages], inputs]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]


def _without_single(tasks: dict[str, Task]) -> dict[str, Task]:
    """Leave out a shared task that only one other waits for, since that one can do the work itself."""
    followers = Counter(task.after for task in tasks.values())
    kept = {name: task for name, task in tasks.items() if task.job["returns"] or followers[name] > 1}
    for name, task in kept.items():
        after = task.after
        while after and after not in kept:
            after = tasks[after].after
        kept[name] = replace(task, after=after)
    return kept
