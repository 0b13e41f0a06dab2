"""Damages every artifact and cache object, and counts the outcomes: python -m benchmarks.faults.corruption

First there are 200 cases per kind of artifact in a tiny repository: a stage that reads the damaged file runs. Then
there are 200 cases of cache objects in a small repository, with the real dvc: the outputs in the object are deleted,
dvc restores them, and a stage that reads them runs. For the first case of each kind of object the remedy in the message
is followed; then everything must be as before. Exits with 1 if a number is wrong or a traceback appears.
"""

import functools
import io
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated
from unittest import mock

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from harness.damage import HARMLESS, KINDS, NAMED, TRACEBACK, WRONG, Damage, Reader, outcome, readers
from harness.dvc_repository import Repository, make_repository, stage_environment
from harness.stage_order import run_stage
from harness.stage_repository import digests, run_all
from harness.stage_repository import make_repository as make_tiny_repository
from pipeline import params
from pipeline.health.storage import locked, outputs

OUTPUTS = ("data", "artifacts", "reports")
OTHER = "other error"  # DVC's own
Counts = dict[str, Counter[str]]


def kind(path: Path) -> str:
    """The name of a file without its task."""
    return re.sub(r"\bt\d+\b", "tK", str(path))


def drawn(generator: random.Random) -> Damage:
    """Any damage."""
    return Damage(generator.choice(KINDS), generator.random(), generator.randrange(8))


def quiet(run: Callable[[], object]) -> None:
    """Run something without its printed output."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run()


def digests_but(file: Path) -> dict[str, str]:
    """Digests of all outputs except one."""
    return {name: digest for name, digest in digests(*OUTPUTS).items() if name != str(file)}


def damage_artifacts(cases: int) -> Counts:
    """Outcomes of `cases` cases per kind of artifact, with stages called as functions."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        quiet(functools.partial(make_tiny_repository, Path()))
        quiet(functools.partial(run_all, 3))
        with mock.patch.object(params, "read_mapping", functools.cache(params.read_mapping)):  # most of a stage's time
            return _damage_each_kind(cases)


def _damage_each_kind(cases: int) -> Counts:
    counts: Counts = {}
    files = readers()
    for name in track(sorted({kind(file) for file in files}), "artifacts", transient=True):
        generator = random.Random(name)
        members = [file for file in files if kind(file) == name]
        for _ in range(cases):
            file = generator.choice(members)
            reader = generator.choice(files[file])
            content = file.read_bytes()
            file.write_bytes(drawn(generator).of(content))
            run = functools.partial(run_stage, reader.stage, *reader.arguments)
            result = outcome(file, functools.partial(quiet, run), functools.partial(digests_but, file))
            file.write_bytes(content)
            counts.setdefault(name, Counter())[result] += 1
    return counts


def damage_objects(cases: int) -> Counts:
    """Outcomes of `cases` cases for the objects of DVC's cache."""
    counts: Counts = {}
    with tempfile.TemporaryDirectory() as folder, stage_environment() as environment:
        original = make_repository(Path(folder) / "a repository", environment)
        original.dvc("repro")
        original.commit("result")
        with chdir(original.path):
            held, files = _held(), readers()
        generator = random.Random(0)
        order = [path for _ in range(-(-cases // len(held))) for path in generator.sample(sorted(held), len(held))]
        repaired = set[str]()
        for path in order[:cases]:
            copy = Path(folder) / "damaged"
            shutil.copytree(original.path, copy)
            repository = Repository(copy, environment)
            name = ".dir" if path.suffix else kind(held[path][0])
            choice = [reader for output in held[path] for reader in files.get(output, [])]
            reader = generator.choice(choice) if choice else None
            damage = drawn(generator)
            result = _damage_object(repository, path, damage, held[path], reader)
            if result == NAMED and name not in repaired:
                repaired.add(name)
                result = f"{NAMED}; repaired" if _repair(repository, original) else WRONG
            counts.setdefault(f"cache: {name}", Counter())[result] += 1
            print(path, name, damage.kind, result, sep=" | ", flush=True)
            shutil.rmtree(copy)
    return counts


def _held() -> dict[Path, list[Path]]:
    """The cache objects of the repository in the working folder, and the outputs that each holds or lists."""
    objects = {path.parent.name + path.name: path for path in Path(".dvc/cache").glob("files/md5/??/*")}
    held: dict[Path, list[Path]] = {}
    for output, digest in [*outputs(objects).items(), *locked()]:
        files = sorted(file for file in output.rglob("*") if file.is_file()) if output.is_dir() else [output]
        if digest in objects:
            known = held.setdefault(objects[digest], [])
            known += [file for file in files if file not in known]
    return held


def _damage_object(repository: Repository, path: Path, damage: Damage, held: list[Path], reader: Reader | None) -> str:
    """What comes of it when DVC brings the outputs back and a stage reads one of them."""
    before = _numbers(repository, held)
    target = repository.path / path
    target.chmod(0o644)
    target.write_bytes(damage.of(target.read_bytes()))
    target.chmod(0o444)  # as DVC leaves them: it trusts what is write-protected
    for output in held:
        (repository.path / output).unlink()
    is_cached = held[0].parts[0] != "reports"
    said = _dvc(repository, *(["checkout"] if is_cached else ["repro"]))
    said += _dvc(repository, "repro", "-f", "-s", reader.name) if reader else ""
    if "Traceback" in said:
        return f"{TRACEBACK}: {said[-300:]}"
    errors = [line for line in said.splitlines() if line.startswith(("error: ", "ERROR: "))]
    if any(str(output) in line for line in errors for output in held):
        return NAMED
    if errors:
        return f"{OTHER}: {errors[0]}"
    after = _numbers(repository, held)
    if after != before:
        return f"{WRONG}: {sorted(name for name in {*before, *after} if before.get(name) != after.get(name))[:3]}"
    return HARMLESS


def _numbers(repository: Repository, held: list[Path]) -> dict[str, bytes]:
    """All files except sealed outputs, which may stay damaged until they are read."""
    damaged = {str(output) for output in held if output.parts[0] != "reports"}
    found = repository.digests(*(f"{folder}/**/*" for folder in OUTPUTS))
    return {name: content for name, content in found.items() if name not in damaged}


def _repair(repository: Repository, original: Repository) -> bool:
    """Whether everything is as before after following the remedy in the message."""
    subprocess.run(
        ["python", "-m", "pipeline", "doctor", "--repair"],
        cwd=repository.path,
        env=repository.env,
        check=False,
        capture_output=True,
    )
    said = _dvc(repository, "repro")
    patterns = (*(f"{folder}/**/*" for folder in OUTPUTS), "dvc.lock", ".dvc/cache/files/**/*")
    return "ERROR" not in said and repository.digests(*patterns) == original.digests(*patterns)


def _dvc(repository: Repository, *arguments: str) -> str:
    """The output of both streams, whether the command fails or not."""
    done = subprocess.run(
        ["dvc", *arguments],
        cwd=repository.path,
        env=repository.env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout


def show(counts: Counts) -> None:
    """Print one row per kind and one column per outcome."""
    seen = [result for counter in counts.values() for result in counter]
    columns = sorted({result.partition(":")[0] for result in seen})
    table = Table("kind", *columns, "cases")
    for name, counter in sorted(counts.items()):
        cells = [sum(n for result, n in counter.items() if result.partition(":")[0] == column) for column in columns]
        table.add_row(name, *(str(cell or "") for cell in cells), str(counter.total()))
    Console(highlight=False, width=160).print(table)
    for name, result in sorted({(name, result) for name, counter in counts.items() for result in counter}):
        if not result.startswith((NAMED, HARMLESS)):
            print(f"{name}: {result}")


def main(
    cases: Annotated[int, typer.Option(help="Cases per kind of artifact.")] = 200,
    objects: Annotated[int, typer.Option(help="Cases of cache objects in total; about six seconds each.")] = 200,
) -> None:
    """Damage files, run stages and count the outcomes."""
    counts = damage_artifacts(cases) if cases else {}
    counts |= damage_objects(objects) if objects else {}
    show(counts)
    if any(result.startswith((WRONG, TRACEBACK)) for counter in counts.values() for result in counter):
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
