"""Runs many tasks with the real `dvc` and kills it once: python -m benchmarks.faults.long_run [--tasks 50].

Each task has two of the benchmark's glyph classes, with a few images per class and one epoch. Memory is the peak of a
stage's own memory (as in benchmarks.speed.input_path), at an early and at the last task, in a plain process.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.faults.kill import running_in
from benchmarks.speed.input_path import peak_memory
from harness.dvc_repository import Repository, make_repository, stage_environment
from harness.parameters import set_params
from harness.stage_order import OF_A_TASK
from pipeline.store import artifacts
from pipeline.tasks import task_name

EARLY = 5


def repro_killed_at(repository: Repository, stage: str, delay: float) -> int:
    """Run the pipeline until a moment after a stage has started. Returns how many stages have run."""
    log = repository.path / ".scratch/output"
    log.parent.mkdir()
    with log.open("wb") as output:
        dvc = subprocess.Popen(
            ["dvc", "repro"],
            cwd=repository.path,
            env=repository.env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while f"Running stage '{stage}'" not in log.read_text() and dvc.poll() is None:
        time.sleep(0.05)
    time.sleep(delay)
    os.killpg(dvc.pid, signal.SIGKILL)
    dvc.wait()
    return log.read_text().count("Running stage")


def memory(repository: Repository, tasks: int) -> dict[str, list[float]]:
    """Peak of each stage in MB, at an early and at the last task."""
    peaks: dict[str, list[float]] = {}
    for last in (EARLY, tasks):
        set_params(repository.path / "params.yaml", num_tasks=last)
        for stage in (*OF_A_TASK, "evaluate"):
            arguments = [task_name(last - 1)] if stage in OF_A_TASK else []
            command = [sys.executable, "-m", f"stages.{stage}", *arguments]
            peaks.setdefault(stage, []).append(peak_memory(command, repository.path))
    return peaks


def main(tasks: Annotated[int, typer.Option(min=EARLY)] = 50, seed: int = 0) -> None:
    """Run, kill, finish, measure, print."""
    console = Console(highlight=False)
    killed_in = f"stage_one@{task_name(tasks // 2)}"
    with tempfile.TemporaryDirectory() as temporary, stage_environment() as environment:
        repository = make_repository(Path(temporary).resolve() / "repository", environment)
        set_params(repository.path / "params.yaml", classes_per_task=2)
        repository.run("python", "-m", "pipeline", "plan", str(tasks))
        started = time.monotonic()
        before = repro_killed_at(repository, killed_in, random.Random(seed).random())
        killed = time.monotonic()
        time.sleep(2.0)
        left = len(running_in(repository.path))
        after = repository.dvc("repro").count("Running stage")
        finished = time.monotonic()
        again = repository.dvc("repro").count("Running stage")
        matrix = artifacts.load_json(repository.path / artifacts.EVALUATION)["matrices"]["c_ln"]
        peaks = memory(repository, tasks)
    console.print(f"{before} stages in {killed - started:.0f} s, killed in {killed_in}: {left} processes left")
    console.print(f"`dvc repro`: {after} stages in {finished - killed:.0f} s; once more: {again}")
    console.print(f"accuracy matrix: {len(matrix)} rows, the last of {len(matrix[-1])} tasks")
    table = Table("peak memory (MB)", f"t{EARLY}", f"t{tasks}")
    for stage, values in peaks.items():
        table.add_row(stage, *(f"{value:.0f}" for value in values))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
