"""Feeds bad input to the pipeline: python -m benchmarks.faults.bad_input [PARAMS] [DATA].

500 files of parameters (harness/bad_params.py) and a hundred data sets (harness/bad_data.py) each go through the
command lines of all stages, in a process of their own. A case passes if it runs through, or if it is refused by one
line on stderr and exit code 1. A traceback, any other end or no end is our failure: this command then exits with 1.
"""

import contextlib
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from hypothesis import HealthCheck, Phase, given, settings
from rich.console import Console
from rich.table import Table

from harness.bad_data import data_sets, write_classes
from harness.bad_params import files, written
from harness.bad_weights import WEIGHTS
from harness.stage_order import in_order
from pipeline.params import read_mapping
from pipeline.runtime.command import run
from pipeline.tasks import chain

ROOT = Path(__file__).parents[2]
TASKS = 2
SECONDS = 120.0  # a case that takes longer counts as hung; a good one takes two seconds
MEMORY = 8 * 2**30  # bytes of addresses
QUIET = settings(  # always the same cases; show the first failure without spending minutes on making it smaller
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
RAN, REFUSED = "ran through", "refused in one line"


class Outcome(NamedTuple):
    """How a case ended."""

    kind: str
    stage: str  # the last one begun
    message: str


def base_params() -> dict[str, object]:
    """The project's parameters on a small scale: two tasks of two classes from the folder `images`."""
    smaller = {"dataset": "image_folder", "classes_per_task": 2, "num_tasks": TASKS, "tasks": chain(TASKS)}
    return read_mapping(ROOT / "params.yaml") | smaller | {"epochs": 1, "classifier_epochs": 1, "key_epochs": 1}


def make_folder(folder: Path, params: bytes) -> None:
    """Write the parts of a repository that the stages need, without images."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_bytes(params)
    (folder / "backbones").mkdir()
    for name in ("pretrained", "glyph_vit"):
        (folder / "backbones" / name).symlink_to(ROOT / "backbones" / name)


def run_stages(folder: Path) -> Outcome:
    """Run all stages in turn in a child process, until one refuses."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become_stages(folder)
    until = time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.01)
    stage = (folder / ".stage").read_text() if (folder / ".stage").exists() else ""
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Outcome("hung", stage, f"longer than {SECONDS:.0f} s")
    lines = (folder / ".stderr").read_text(errors="replace").splitlines()
    code = os.waitstatus_to_exitcode(ended[1])
    if code == 0:
        return Outcome(RAN, stage, "")
    if code == 1 and len(lines) == 1 and lines[0].startswith("error: "):
        return Outcome(REFUSED, stage, lines[0])
    kind = "traceback" if any(line.startswith("Traceback") for line in lines) else f"exit code {code}"
    return Outcome(kind, stage, "\n".join(lines))


def _become_stages(folder: Path) -> None:
    """Run the stages in the child process. Never returns."""
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number, name in ((1, ".stdout"), (2, ".stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    code = 0
    for name, *arguments in in_order(TASKS):
        Path(".stage").write_text(name)
        sys.argv = [name, *arguments]
        try:
            run(importlib.import_module(f"stages.{name}").main)
        except SystemExit as leaving:
            if isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 70
        if code:
            break
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def params_cases(count: int) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """`count` files of parameters, each with a good data set."""
    cases: list[bytes] = []

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(files(base_params()))
    def collect(content: bytes) -> None:
        cases.append(content)

    collect()
    for number, content in enumerate(cases):

        def write(folder: Path, content: bytes = content) -> None:
            make_folder(folder, content)
            write_classes(folder / "images")

        yield f"parameters {number}", write


def data_cases(count: int) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """`count` data sets and weight files, with good parameters."""
    for name, change in list((data_sets() | WEIGHTS).items())[:count]:

        def write(folder: Path, change: Callable[[Path], dict[str, object]] = change) -> None:
            make_folder(folder, b"")
            changes = change(folder)
            (folder / "params.yaml").write_bytes(written(base_params() | changes))

        yield name, write


def outcomes(cases: Iterable[tuple[str, Callable[[Path], None]]], console: Console) -> Counter[str]:
    """Count how the cases end, and show our failures."""
    kinds: Counter[str] = Counter()
    for name, write in cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "repository"
            folder.mkdir()
            write(folder)
            outcome = run_stages(folder)
            if (folder / "pwned").exists() or (folder / "trace").exists():
                outcome = outcome._replace(kind="code of the input ran")
            if outcome.kind not in (RAN, REFUSED):
                console.print(f"{name}: {outcome.kind} in {outcome.stage}\n{outcome.message}", soft_wrap=True)
                console.print((folder / "params.yaml").read_bytes().decode(errors="replace")[:3000], soft_wrap=True)
        kinds[outcome.kind] += 1
        if os.environ.get("VERBOSE"):
            console.print(f"{name}: {outcome.kind} in {outcome.stage} {outcome.message}", soft_wrap=True)
    return kinds


def main() -> None:
    """Run all cases and count how they end."""
    counts = [int(argument) for argument in sys.argv[1:]]
    params, data = (counts + [500, 1000][len(counts) :])[:2]
    torch.set_num_threads(1)  # the children inherit this
    os.environ["DEVICE"] = "cpu"
    for name, *_ in in_order(TASKS):
        importlib.import_module(f"stages.{name}")
    importlib.import_module("pipeline.backbone.timm_weights")
    console = Console(highlight=False, markup=False)
    found = {
        "parameters": outcomes(params_cases(params), console),
        "data and weights": outcomes(data_cases(data), console),
    }
    table = Table("input", *(kinds := sorted(set().union(*found.values()))), "cases")
    for name, counted in found.items():
        table.add_row(name, *(str(counted[kind]) for kind in kinds), str(counted.total()))
    console.print(table)
    if set(kinds) - {RAN, REFUSED}:
        sys.exit("error: some bad input was not refused in one line")


if __name__ == "__main__":
    main()
