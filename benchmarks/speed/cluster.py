"""What a sweep on Ray costs beside the work of its experiments: `python -m benchmarks.speed.cluster`.

The pieces that every experiment pays for, one by one; what Ray adds; a grid whose experiments only wait; and what the
pieces come to for 1,000 experiments on 100 nodes. Prints Markdown.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from harness.dvc_repository import Repository, make_repository
from harness.ray_cluster import add, ray_cluster
from harness.root import ROOT
from pipeline.experiments.cluster import Resources, run_on_ray
from pipeline.experiments.queue import Cell
from pipeline.experiments.shared import SHARED
from pipeline.params import read_mapping
from pipeline.runtime.git import git

_PEOPLE = {f"GIT_{who}_{what}": "benchmark" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
_WAITING = """\
stages:
  download: {{cmd: 'true', params: [dataset]}}
  split: {{cmd: 'true', params: [dataset]}}
  queries: {{cmd: 'true', params: [dataset]}}
  evaluate:
    cmd: sleep {seconds} && mkdir -p reports && echo '{{"waited":{seconds}}}' > reports/metrics.json
    params: [seed]
    metrics:
      - reports/metrics.json: {{cache: false}}
"""
_EMPTY_TASKS = 1000
_MANY_NODES, _MANY_EXPERIMENTS = 100, 1000
_LINK = 125e6  # bytes per second that a file server gives out, at 1 Gbit/s


class Cost(NamedTuple):
    """Of a command, in seconds. Those of the processor depend little on what else the machine does."""

    passed: float
    processor: float


def main(
    count: Annotated[int, typer.Option(help="Experiments.")] = 50,
    nodes: Annotated[int, typer.Option(help="Nodes of one core.")] = 2,
    seconds: Annotated[int, typer.Option(help="How long each experiment waits.")] = 10,
) -> None:
    """Measure the pieces, Ray, and the grid; then the model."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **_PEOPLE, "DVC_NO_ANALYTICS": "1", "PATH": path}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = make_repository(folder / "repository", environment)
        (repository.path / "dvc.yaml").write_text(_WAITING.format(seconds=seconds), encoding="utf-8")
        repository.commit("experiments that only wait")
        print("| piece | seconds | of a processor |\n| --- | --- | --- |")
        for piece, cost in _pieces(repository, folder):
            print(f"| {piece} | {cost.passed:.2f} | {cost.processor:.2f} |", flush=True)
        os.environ.update(environment)
        with ray_cluster(environment) as cluster, contextlib.chdir(repository.path):
            for number in range(nodes):
                add(cluster, f"node-{number}", folder=folder / f"node-{number}")
            os.environ["RAY_ADDRESS"] = cluster.address
            for what, per in _ray_alone():
                print(f"\n{what}: {1000 * per:.1f} ms", flush=True)
            taken = _cost(lambda: run_on_ray(_grid(count), Resources(1, 0))).passed
    work = count * seconds / nodes
    share, each = 1 - work / taken, (taken - work) * nodes / count
    print(f"\n{count} experiments of {seconds} s on {nodes} nodes: {taken:.0f} s, of which {share:.0%} is not work:")
    print(f"{each:.1f} s of a node per experiment. Load of the machine at its end: {os.getloadavg()[1]:.1f}")
    _model()


def _grid(count: int) -> list[Cell]:
    return [
        Cell(name=f"waits-s{seed}-00000000", variant="waits", seed=seed, changes={}, inputs="")
        for seed in range(1, count + 1)
    ]


def _pieces(repository: Repository, folder: Path) -> Iterator[tuple[str, Cost]]:
    """What node.py does, command by command."""
    clone = Repository(folder / "clone", repository.env)
    yield "clone and checkout", _cost(lambda: repository.clone(clone.path))
    clone.run(sys.executable, "-m", "dvc", "cache", "dir", "--local", str(repository.path / ".dvc/cache"))
    (clone.path / "dvc.yaml").write_text(_WAITING.format(seconds=0), encoding="utf-8")
    push = ("dvc", "exp", "push", "-f", "--no-cache", "origin", "piece")
    run = ("pipeline.dvc", "exp", "run", "-n", "piece", "-S", "seed=7", "evaluate")
    for piece, command in {
        "dvc checkout": ("dvc", "checkout", "--allow-missing"),
        "pipeline.dvc exp run, without work": run,
        "dvc exp push": push,
    }.items():
        yield piece, _cost(lambda: clone.run(sys.executable, "-m", *command))  # noqa: B023  (called at once)
    commit = repository.experiment("piece")
    for count in (100, 1000, 10000):
        _update_refs(
            repository,
            "".join(f"create refs/exps/00/{number:038x}/many-{number} {commit}\n" for number in range(count)),
        )
        for piece, act in {
            "ls-remote for one name": lambda: repository.run("git", "ls-remote", ".", "refs/exps/*/piece"),
            "clone": lambda: repository.run("git", "clone", "-qn", ".", str(folder / f"clone-{count}")),  # noqa: B023
            "dvc exp push": lambda: clone.run(sys.executable, "-m", *push),
        }.items():
            yield f"{piece}, beside {count} experiments", _cost(act)
        _update_refs(repository, repository.run("git", "for-each-ref", "refs/exps/00", "--format=delete %(refname)"))


def _update_refs(repository: Repository, commands: str) -> None:
    file = repository.path / ".git/commands"
    file.write_text(commands)
    repository.run("sh", "-c", f"git update-ref --stdin < '{file}'")


def _ray_alone() -> Iterator[tuple[str, float]]:
    """What Ray needs per task that does nothing, and per look at its nodes, in seconds."""
    import ray  # noqa: PLC0415  (an extra)

    ray.init(log_to_driver=False, logging_level="ERROR")
    nothing: Any = ray.remote(num_cpus=1, max_retries=5)(lambda: None)
    ray.get([nothing.remote() for _ in range(10)])  # starts the processes
    yield (
        "Ray, per task that does nothing",
        _cost(lambda: ray.get([nothing.remote() for _ in range(_EMPTY_TASKS)])).passed / _EMPTY_TASKS,
    )
    yield "a look at the nodes", _cost(lambda: [ray.nodes() for _ in range(100)]).passed / 100
    ray.shutdown()


def _model() -> None:
    """What all nodes get from one file server for the default benchmark, by its dvc.lock and this repository's size."""
    stages: dict[str, Any] = read_mapping(ROOT / "dvc.lock")["stages"]
    sizes = {name: sum(out.get("size", 0) for out in stage.get("outs", ())) for name, stage in stages.items()}
    shared = sum(size for name, size in sizes.items() if name in SHARED)
    own = sum(sizes.values()) - shared
    code = sum(file.stat().st_size for file in Path(git("rev-parse", "--git-common-dir").strip()).rglob("*.pack"))
    print(f"\nThe default benchmark: a clone has {code / 1e6:.0f} MB of history, an experiment reads ", end="")
    print(f"{shared / 1e6:.0f} MB that others read, too, and writes {own / 1e6:.0f} MB.")
    each = code + shared + own
    print(f"A file server with 1 Gbit/s gives {_MANY_NODES} nodes what they start with in ", end="")
    print(f"{_MANY_NODES * (code + shared) / _LINK:.0f} s; {_MANY_EXPERIMENTS} experiments take it ", end="")
    print(f"{_MANY_EXPERIMENTS * each / _LINK:.0f} s, so {_MANY_NODES} nodes wait for it if an experiment takes less ")
    print(f"than {_MANY_NODES * each / _LINK:.0f} s. With caches of their own (--remote): ", end="")
    print(f"{(_MANY_NODES * shared + _MANY_EXPERIMENTS * (code + own)) / _LINK:.0f} s in all.")


def _cost(act: Callable[[], object]) -> Cost:
    started, before = time.monotonic(), os.times()
    act()
    after = os.times()
    children = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.monotonic() - started, children)


if __name__ == "__main__":
    typer.run(main)
