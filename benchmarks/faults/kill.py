"""Kills the pipeline at random moments, and lets `dvc repro` finish it.

    python -m benchmarks.faults.kill [--moments 30] [--seed 0]

A small copy of the project (that of the tests) runs undisturbed once. Then, for each moment, a fresh copy gets SIGKILL,
SIGTERM or Ctrl-C: in DVC, in the stage or in both (the process group, as from a terminal). Two seconds after DVC's end
nothing may run there, and `dvc repro` must give the same bytes, resuming where stage one has saved a state. Most stages
are forked from the tests' stage server; every seventh repository starts them as plain `python`.
"""

import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from harness.dvc_repository import Repository, make_repository, stage_environment
from harness.parameters import set_params

EPOCHS = 20  # of stage one
STAGES = 15
_IMPORTING = 3  # a stage that imports torch itself takes this many times as long
SECONDS_TO_END = 2.0
RESULT = ("data/**/*", "artifacts/**/*", "reports/**/*", "dvc.lock")
BLOWS = [
    (number, target)
    for target in ("dvc", "stage", "both")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
]


@dataclass(frozen=True)
class Blow:
    """When and how the pipeline is hit."""

    moment: float  # share of the pipeline's stages that have been started, the fraction of one being a time within it
    number: signal.Signals
    target: str
    plain: bool  # stages are plain `python`


@dataclass(frozen=True)
class Outcome:
    """What was left, and how `dvc repro` finished it."""

    stage: str  # the stage that was running
    went_on: bool  # DVC succeeded all the same: it ignores a Ctrl-C that does not reach the stage
    orphans: list[str]
    hand_work: str  # DVC's message, if it could not continue without help
    resumed: str
    repeated: bool  # whether a finished epoch was repeated
    differing: list[str]

    @property
    def good(self) -> bool:
        """Whether everything is as promised."""
        return not (self.orphans or self.hand_work or self.repeated or self.differing)


def running_in(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):  # gone, or another user's
            continue
    return found


def strike(repository: Repository, blow: Blow, seconds: float, rng: random.Random) -> tuple[str, bool]:
    """Run the pipeline and hit it. Returns the stage that was running, and whether DVC succeeded all the same.

    seconds: average duration of a stage. Time is counted from the start of a stage, also on a busy machine.
    """
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
    delay, before = math.modf(blow.moment * STAGES)
    while len(started(log)) <= before and dvc.poll() is None:
        time.sleep(0.02)
    time.sleep(delay * seconds)
    if blow.target == "both" and dvc.poll() is None:
        os.killpg(dvc.pid, blow.number)
    elif blow.target == "dvc" and dvc.poll() is None:
        dvc.send_signal(blow.number)
    while blow.target == "stage" and dvc.poll() is None:  # between two stages there is none
        if stages := [process for process in running_in(repository.path) if process.pid != dvc.pid]:
            try:
                rng.choice(stages).send_signal(blow.number)
            except psutil.NoSuchProcess:
                continue
            break
    stage = started(log)[-1]
    return stage, dvc.wait() == 0


def started(log: Path) -> list[str]:
    """Stages that DVC has started."""
    return re.findall(r"Running stage '([^']+)'", log.read_text())


def finish(repository: Repository) -> tuple[str, str]:
    """The output of `dvc repro`, and its earlier message if it needed help by hand."""
    command = ["dvc", "repro"]
    done = subprocess.run(command, cwd=repository.path, env=repository.env, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout, ""
    (repository.path / "dvc.lock").unlink(missing_ok=True)
    (repository.path / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    return repository.dvc("repro"), " ".join(done.stderr.split())[-300:]


def endure(repository: Repository, blow: Blow, seconds: float, rng: random.Random) -> Outcome:
    """Hit a fresh repository, and let `dvc repro` finish it."""
    expected = repository.digests(*RESULT)
    for folder in ("data", "artifacts", "reports", ".dvc/cache", ".dvc/tmp", ".scratch"):
        shutil.rmtree(repository.path / folder, ignore_errors=True)
    (repository.path / "dvc.lock").unlink()
    stage, went_on = strike(repository, blow, seconds, rng)
    time.sleep(SECONDS_TO_END)
    orphans = [" ".join(process.cmdline()) for process in running_in(repository.path)]
    states = [file for file in (repository.path / ".scratch/resume").glob("*") if not file.name.startswith(".")]
    output, hand_work = finish(repository)
    resumed = re.findall(r"stage one, (t\d+): resuming after epoch (\d+)", output)
    found = repository.digests(*RESULT)
    return Outcome(
        stage=stage,
        went_on=went_on,
        orphans=orphans,
        hand_work=hand_work,
        resumed=", ".join(f"{task} after {epoch}" for task, epoch in resumed),
        repeated=len(states) != len(resumed),
        differing=sorted(name for name in expected | found if expected.get(name) != found.get(name)),
    )


def row(blow: Blow, outcome: Outcome) -> list[str]:
    """A row of the table."""
    problems = [*(f"orphan: {command}" for command in outcome.orphans), outcome.hand_work, *outcome.differing]
    problems += ["repeated epochs"] * outcome.repeated
    return [
        f"{blow.moment:.2f}",
        blow.number.name,
        blow.target,
        "python" if blow.plain else "server",
        outcome.stage,
        "went on" if outcome.went_on else "",
        outcome.resumed,
        "; ".join(filter(None, problems)) or "identical",
    ]


def main(moments: Annotated[int, typer.Option(min=1)] = 30, seed: int = 0) -> None:
    """Kill, finish, compare and print. Exit code 1 if anything is not as promised."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a script would ignore it
    rng = random.Random(seed)
    blows = [Blow(rng.random(), *BLOWS[index % len(BLOWS)], plain=index % 7 == 6) for index in range(moments)]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    table = Table("moment", "signal", "target", "stages", "running", "DVC", "resumed", "result")
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary, stage_environment() as served:
        folder = Path(temporary).resolve()
        plain = served | {"PATH": served["PATH"].partition(os.pathsep)[2]}
        original = make_repository(folder / "original", served)
        set_params(original.path / "params.yaml", epochs=EPOCHS)
        original.commit("epochs")
        begun = time.monotonic()
        original.dvc("repro")
        seconds = (time.monotonic() - begun) / STAGES
        for number, blow in enumerate(blows):
            path = folder / str(number)
            shutil.copytree(original.path, path)
            repository = Repository(path, plain if blow.plain else served)
            outcomes.append(endure(repository, blow, seconds * (_IMPORTING if blow.plain else 1), rng))
            table.add_row(*row(blow, outcomes[-1]))
            console.print(number + 1, *row(blow, outcomes[-1]))
            shutil.rmtree(path)
    console.print(table)
    console.print(f"undisturbed: {seconds * STAGES:.0f} s")
    for name, count in {
        "identical": sum(not outcome.differing for outcome in outcomes),
        "orphans": sum(bool(outcome.orphans) for outcome in outcomes),
        "hand work": sum(bool(outcome.hand_work) for outcome in outcomes),
        "repeated epochs": sum(outcome.repeated for outcome in outcomes),
        "resumed": sum(bool(outcome.resumed) for outcome in outcomes),
    }.items():
        console.print(f"{name}: {count} of {moments}")
    sys.exit(not all(outcome.good for outcome in outcomes))


if __name__ == "__main__":
    typer.run(main)
