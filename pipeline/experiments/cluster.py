"""Runs a grid on the nodes of a Ray cluster. Each experiment is one Ray task, in a clone of its own (node.py). Ray
schedules the tasks and retries what a dead node was doing. A task starts when the one it waits for (shared.py) has
ended. A node that can't run experiments gets no more of them.
"""

import contextlib
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from pipeline.errors import UserError
from pipeline.experiments import exchange, node
from pipeline.experiments import queue as experiments
from pipeline.experiments.queue import Cell
from pipeline.experiments.shared import Task, plan
from pipeline.experiments.view import progress_bar
from pipeline.runtime.work_log import LOG
from pipeline.store import artifacts

LOGS = Path(".scratch/sweep")
_SECONDS_BETWEEN_LOOKS = 5.0
_SECONDS_TO_ANSWER = 10.0
_RETRIES = 5  # of a task whose node died


class Resources(NamedTuple):
    """What an experiment takes of its node; a GPU may be shared."""

    cpus: float
    gpus: float | None  # None: one where the cluster has any


def run_on_ray(grid: Sequence[Cell], resources: Resources, remote: str | None = None) -> list[str]:
    """Run every unfinished experiment of the grid and wait. Returns the names of those without a result.

    remote: a Git remote, by name or address, through which nodes get the code and return results, while DVC's default
    remote carries artifacts. Without it, nodes must see this folder and DVC's cache. Raises UserError where there is
    no cluster, and on Ctrl-C.
    """
    wanted = {cell.name: cell for cell in grid}
    project = exchange.project(remote)
    names = set(wanted)
    if remote:
        exchange.fetch(project["url"], names)
    todo = [cell for name, cell in wanted.items() if name not in experiments.revisions()]
    console = Console(highlight=False)
    console.print(f"{len(wanted)} experiments: {len(wanted) - len(todo)} finished, {len(todo)} new")
    if not todo:
        return []
    is_interrupted = False
    try:
        with _connected() as ray:
            _Sweep(ray, plan(todo), _options(ray, resources), console).run(project)
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        if remote:
            exchange.fetch(project["url"], names)
    failed = sorted(names - experiments.revisions().keys())
    if is_interrupted:
        standing = f"interrupted: {len(names) - len(failed)} of {len(names)} experiments have finished"
        raise UserError(f"{standing}: run the same command to continue")
    return failed


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster that RAY_ADDRESS or `ray start` names, or started on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415  (an extra)
    except ImportError:
        raise UserError("Ray is not installed: `pip install -c constraints.txt '.[ray]'`") from None
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if found := re.search(r"([^/:\[\]]+|\[.+\]):(\d+)$", address):  # Ray would try for minutes
            socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=_SECONDS_TO_ANSWER).close()
        ray.init(log_to_driver=False, logging_level="ERROR")
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster at {address or 'this machine'}: {reason}: set RAY_ADDRESS") from None
    try:
        ray.cloudpickle.register_pickle_by_value(node)  # nodes need no copy of the project
        yield ray
    finally:
        ray.shutdown()


def _options(ray: Any, resources: Resources) -> dict[str, float]:  # noqa: ANN401
    """Ray's options of a task. Raises UserError if no node is large enough, because Ray would wait for one for ever."""
    gpus = float(bool(ray.cluster_resources().get("GPU"))) if resources.gpus is None else resources.gpus
    options = {"num_cpus": resources.cpus, "num_gpus": gpus}
    if not _able(ray, options):
        raise UserError(f"no node of the cluster has {resources.cpus:g} CPUs and {gpus:g} GPUs: lower --cpus or --gpus")
    return options


def _able(ray: Any, options: Mapping[str, float]) -> set[str]:  # noqa: ANN401
    """Nodes that are alive and large enough, by Ray's number."""
    return {
        each["NodeID"]
        for each in ray.nodes()
        if each["Alive"]
        and each["Resources"].get("CPU", 0) >= options["num_cpus"]
        and each["Resources"].get("GPU", 0) >= options["num_gpus"]
    }


def _name(of: Mapping[str, str]) -> str:
    """The name that a node was given, otherwise its machine's."""
    return of["NodeManagerHostname"] if of["NodeName"] == of["NodeManagerAddress"] else of["NodeName"]


class _Sweep:
    """The tasks of one sweep, at Ray."""

    def __init__(self, ray: Any, tasks: Mapping[str, Task], options: Mapping[str, float], console: Console) -> None:  # noqa: ANN401
        self.ray, self.options, self.console = ray, options, console
        self.tasks, self.running = tasks, dict[Any, str]()
        self.unfit = set[str]()  # nodes that can't run experiments, by Ray's number
        self.ended = Counter[str]()

    def run(self, project: node.Project) -> None:
        """Run all, each after the one that it waits for, and show how each ended."""
        on_node, shared = self.ray.remote(node.run), self.ray.put(project)
        ready = [name for name, task in self.tasks.items() if not task.after]
        with progress_bar(self.console, sum(task.job["returns"] for task in self.tasks.values())) as show:
            while ready or self.running:
                nodes = _able(self.ray, self.options) - self.unfit
                if self.unfit and not nodes:
                    raise UserError("no node is left that can run experiments: run the same command to continue")
                where = {"ray.io/node-id": f"!in({','.join(sorted(self.unfit))})"} if self.unfit else {}
                for name in ready:
                    task = on_node.options(**self.options, max_retries=_RETRIES, label_selector=where)
                    self.running[task.remote(self.tasks[name].job, shared)] = name
                show(self.ended["finished"], f"{len(nodes)} nodes; {self.ended['failed']} failed")
                done, _ = self.ray.wait(list(self.running), timeout=_SECONDS_BETWEEN_LOOKS)
                ready = [name for reference in done for name in self._next(reference)]
            show(self.ended["finished"], f"{self.ended['failed']} failed")

    def _next(self, reference: Any) -> list[str]:  # noqa: ANN401
        """What to submit when a task has ended: those that waited for it, or the same again on another node."""
        name = self.running.pop(reference)
        try:
            outcome = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return self._failed(name, f"{name} failed: {str(error).strip().splitlines()[0]}")
        where = _name(next(each for each in self.ray.nodes() if each["NodeID"] == outcome["node"]))
        if outcome["is_unfit"]:
            if outcome["node"] not in self.unfit:
                self.unfit.add(outcome["node"])
                self._say(f"{where} gets no more experiments: {outcome['problem']}")
            return [name]
        if outcome["problem"]:
            log = LOGS / f"{name}.log"
            artifacts.save_bytes(log, outcome["output"].encode())
            return self._failed(name, f"{name} failed on {where}: {outcome['problem']} ({log})")
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("a", encoding="utf-8") as log_of_stages:
            log_of_stages.write(outcome["work"])
        self.ended["finished"] += self.tasks[name].job["returns"]
        self._say(f"{name} finished on {where}")
        return self._followers(name)

    def _failed(self, name: str, line: str) -> list[str]:
        """Say so. Tasks that waited for it run all the same: they may fail for another reason, or not at all."""
        self.ended["failed"] += self.tasks[name].job["returns"]
        self._say(line)
        return self._followers(name)

    def _followers(self, name: str) -> list[str]:
        return [other for other, task in self.tasks.items() if task.after == name]

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False)
