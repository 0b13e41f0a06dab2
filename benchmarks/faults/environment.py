"""Runs the pipeline on a failing machine: python -m benchmarks.faults.environment

The faults are a full disk, a read-only folder, a clock set back and the like, each in its own small repository.
`dvc repro` runs under the fault, then without it. The table shows the line that names the culprit, ours or DVC's;
unfinished or damaged files that are left; and whether the next run gives the numbers of a run without a fault. Exits
with 1 on a traceback, a half-written file or another number. Needs root on Linux, to mount folders.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from harness.dvc_repository import Repository, make_repository, stage_environment
from harness.parameters import set_params
from pipeline.health.doctor import check_leftovers
from pipeline.store.seal import check_seal

PATTERNS = ("data/**/*", "artifacts/**/*", "reports/**/*")
# Root may do anything. Without these capabilities it must respect file permissions.
AS_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


class Fault(NamedTuple):
    """How a machine fails."""

    name: str
    during: Callable[[Path], AbstractContextManager[object]]  # of the repository's folder
    wrapper: tuple[str, ...] = ()  # before `dvc repro`
    variables: Mapping[str, str] = {}
    fresh: bool = False  # from a repository in which nothing has run
    folder: str = "a repository"


class Row(NamedTuple):
    """The outcome of a fault."""

    name: str
    said: str
    left: str
    after: str


@contextmanager
def small_disk(folder: Path, room: int) -> Iterator[None]:
    """Put the repository on a disk with `room` free bytes, and on a large one afterwards."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder))
    shutil.copytree(aside, folder, dirs_exist_ok=True)
    shutil.rmtree(aside)
    used = shutil.disk_usage(folder).used
    mount("-o", f"remount,size={used + room}", str(folder))
    try:
        yield
    finally:
        mount("-o", "remount,size=1g", str(folder))


@contextmanager
def read_only(folder: Path, name: str) -> Iterator[None]:
    """Mount one of the repository's folders read-only."""
    target = str(folder / name)
    mount("--bind", target, target)
    mount("-o", "remount,ro,bind", target)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


@contextmanager
def without_access(folder: Path, name: str) -> Iterator[None]:
    """Remove the write permission of one of the repository's folders."""
    (folder / name).chmod(0o555)
    try:
        yield
    finally:
        (folder / name).chmod(0o755)


@contextmanager
def future_files(folder: Path) -> Iterator[None]:
    """Date all files a year into the future, as if the clock had been set back since."""
    for file in folder.rglob("*"):
        status = file.stat()
        os.utime(file, (status.st_atime + 31e6, status.st_mtime + 31e6))
    yield


@contextmanager
def second_run(folder: Path) -> Iterator[None]:
    """Start another `dvc repro` a moment before."""
    first = subprocess.Popen(["dvc", "repro"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        first.wait()


def mount(*arguments: str) -> None:
    """Mount something. Needs root."""
    subprocess.run(["mount", *arguments], check=True)


def faults() -> list[Fault]:
    """All faults."""
    rooms = (20_000, 400_000, 3_000_000, 5_000_000, 7_000_000, 9_000_000)
    return [
        *(Fault(f"full disk, {room / 1e6:g} MB left", partial(small_disk, room=room), fresh=True) for room in rooms),
        *(Fault(f"full disk, {room / 1e3:g} KB left", partial(small_disk, room=room)) for room in (30_000, 200_000)),
        Fault("files of at most 2 MB", nullcontext, ("prlimit", "--fsize=2000000"), fresh=True),
        Fault("artifacts/heads read-only", partial(read_only, name="artifacts/heads")),
        Fault("reports read-only", partial(read_only, name="reports")),
        Fault("cache read-only", partial(read_only, name=".dvc/cache")),
        Fault("artifacts without permission", partial(without_access, name="artifacts/heads"), AS_USER),
        Fault("reports without permission", partial(without_access, name="reports"), AS_USER),
        Fault("the clock went back a year", future_files),
        Fault("two `dvc repro` at once", second_run),
        Fault("a path with spaces, quotes, Unicode", nullcontext, folder="Ordner mit 'ნიმუში' & $HOME; (1)"),
        Fault("no HOME to write to", nullcontext, ("env",), {"HOME": "/proc/nobody", "XDG_CACHE_HOME": ""}),
    ]


def run(repository: Repository, fault: Fault) -> tuple[int, str]:
    """Exit code and both streams of `dvc repro` under a fault."""
    environment = {**repository.env, **fault.variables}
    if fault.wrapper:  # it would not apply to a stage server
        environment |= {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*fault.wrapper, "dvc", "repro"],
        cwd=repository.path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout


def summary(code: int, output: str) -> str:
    """The line that names the culprit: our own, or DVC's."""
    if "Traceback" in output:
        return f"TRACEBACK: {output.strip().splitlines()[-1]}"
    lines = output.splitlines()
    ours = [line for line in lines if line.startswith("error: ")]
    of_dvc = [line for line in lines if line.startswith("ERROR: ")]
    if code == 0:
        return "runs through"
    return ours[0] if ours else f"DVC: {of_dvc[0] if of_dvc else lines[-1]}"


def left(folder: Path) -> str:
    """Unfinished and damaged files in the folder."""
    with chdir(folder):
        found = [finding.what for finding in check_leftovers() if not finding.ok]
        for file in (*Path("data").rglob("*.*"), *Path("artifacts").rglob("*.*")):
            try:
                check_seal(file)
            except ValueError as error:
                found.append(f"{file}: {error}")
    return "; ".join(found) or "nothing"


def attempt(fault: Fault, base: Repository, expected: Mapping[str, bytes], root: Path) -> Row:
    """Run under the fault, then without it."""
    folder = root / fault.folder
    shutil.copytree(base.path, folder)
    repository = Repository(folder, base.env)
    if not fault.fresh:
        set_params(folder / "params.yaml", classifier_lr=0.05)
    try:
        with fault.during(folder):
            code, output = run(repository, fault)
        remains = left(folder)
        code_after, output_after = run(repository, Fault("", nullcontext))
        found = repository.digests(*PATTERNS)
        after = (
            "same numbers" if (code_after, found) == (0, expected) else f"OTHER: {summary(code_after, output_after)}"
        )
        return Row(fault.name, summary(code, output), remains, after)
    finally:
        if folder.is_mount():
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def main(
    only: Annotated[str, typer.Option(help="Faults whose names contain this.")] = "",
) -> None:
    """Run every fault, and print the table."""
    wanted = [fault for fault in faults() if only in fault.name]
    rows = []
    console = Console(highlight=False, width=200)
    with tempfile.TemporaryDirectory() as folder, stage_environment() as environment:
        root = Path(folder)
        fresh = make_repository(root / "fresh", environment)
        finished = Repository(root / "finished", environment)
        shutil.copytree(fresh.path, finished.path)
        finished.dvc("repro")
        plain = finished.digests(*PATTERNS)
        finished.commit("result")
        shutil.copytree(finished.path, root / "changed")
        changed = Repository(root / "changed", environment)
        set_params(changed.path / "params.yaml", classifier_lr=0.05)
        changed.dvc("repro")
        other = changed.digests(*PATTERNS)
        for fault in wanted:
            base, expected = (fresh, plain) if fault.fresh else (finished, other)
            rows.append(attempt(fault, base, expected, root))
            print(*rows[-1], sep=" | ", flush=True)
    table = Table("fault", "what is said", "left behind", "next run", show_lines=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if any(row.said.startswith("TRACEBACK") or row.left != "nothing" or row.after != "same numbers" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
