"""What a sweep on Ray costs beside the work of its experiments: `python -m benchmarks.speed.cluster`.

First the pieces that every experiment pays for, one by one, then a grid whose experiments only wait. Prints Markdown.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from harness.dvc_repository import Repository, make_repository
from harness.ray_cluster import add, ray_cluster
from pipeline.experiments.cluster import Resources, run_on_ray
from pipeline.experiments.queue import Cell

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


def main(
    count: Annotated[int, typer.Option(help="Experiments.")] = 50,
    nodes: Annotated[int, typer.Option(help="Nodes of one core.")] = 2,
    seconds: Annotated[int, typer.Option(help="How long each experiment waits.")] = 10,
) -> None:
    """Measure the pieces, then the grid."""
    environment = {**os.environ, **_PEOPLE, "DVC_NO_ANALYTICS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = make_repository(folder / "repository", environment)
        (repository.path / "dvc.yaml").write_text(_WAITING.format(seconds=seconds), encoding="utf-8")
        repository.commit("experiments that only wait")
        print("| piece | seconds |\n| --- | --- |")
        for piece, taken in _pieces(repository, folder):
            print(f"| {piece} | {taken:.2f} |", flush=True)
        os.environ.update(environment)
        with ray_cluster(environment) as cluster, contextlib.chdir(repository.path):
            for number in range(nodes):
                add(cluster, f"node-{number}", folder=folder / f"node-{number}")
            os.environ["RAY_ADDRESS"] = cluster.address
            taken = _time(lambda: run_on_ray(_grid(count), Resources(1, 0)))
    work = count * seconds / nodes
    share, each = 1 - work / taken, (taken - work) * nodes / count
    print(f"\n{count} experiments of {seconds} s on {nodes} nodes: {taken:.0f} s, of which {share:.0%} is not work:")
    print(f"{each:.1f} s of a node per experiment. Load of the machine: {os.getloadavg()[0]:.1f}")


def _grid(count: int) -> list[Cell]:
    return [
        Cell(name=f"waits-s{seed}-00000000", variant="waits", seed=seed, changes={}) for seed in range(1, count + 1)
    ]


def _pieces(repository: Repository, folder: Path) -> Iterator[tuple[str, float]]:
    """What node.py does, command by command."""
    clone = Repository(folder / "clone", repository.env)
    yield "clone and checkout", _time(lambda: repository.clone(clone.path))
    clone.run(sys.executable, "-m", "dvc", "cache", "dir", "--local", str(repository.path / ".dvc/cache"))
    (clone.path / "dvc.yaml").write_text(_WAITING.format(seconds=0), encoding="utf-8")
    dvc: list[tuple[str, tuple[str, ...]]] = [
        ("dvc checkout", ("dvc", "checkout", "--allow-missing")),
        (
            "pipeline.dvc exp run, without work",
            ("pipeline.dvc", "exp", "run", "-n", "piece", "-S", "seed=7", "evaluate"),
        ),
        ("dvc exp push", ("dvc", "exp", "push", "--no-cache", "origin", "piece")),
    ]
    for piece, command in dvc:
        yield piece, _time(lambda: clone.run(sys.executable, "-m", *command))  # noqa: B023  (called at once)
    commit = repository.experiment("piece")
    for count in (100, 1000, 10000):
        refs = "".join(f"create refs/exps/00/{number:038x}/many-{number} {commit}\n" for number in range(count))
        subprocess.run(["git", "update-ref", "--stdin"], cwd=repository.path, input=refs.encode(), check=True)
        yield (
            f"ls-remote for one name among {count} experiments",
            _time(lambda: repository.run("git", "ls-remote", ".", "refs/exps/*/piece")),
        )
        yield (
            f"clone beside {count} experiments",
            _time(
                lambda: repository.run("git", "clone", "-qn", ".", str(folder / f"clone-{count}"))  # noqa: B023
            ),
        )
        yield (
            f"dvc exp push into {count} experiments",
            _time(lambda: clone.run(sys.executable, "-m", "dvc", "exp", "push", "-f", "--no-cache", "origin", "piece")),
        )
        every = repository.run("git", "for-each-ref", "refs/exps/00", "--format=delete %(refname)")
        subprocess.run(["git", "update-ref", "--stdin"], cwd=repository.path, input=every.encode(), check=True)


def _time(act: Callable[[], object]) -> float:
    started = time.monotonic()
    act()
    return time.monotonic() - started


if __name__ == "__main__":
    typer.run(main)
