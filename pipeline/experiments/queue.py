"""DVC's experiments: which are declared, which have finished, and how DVC's queue runs the rest.

An experiment's name ends in a digest of all its parameters, of the user's files that these name and of the code of the
stages up to evaluate. So a finished experiment is recognised by its name, whatever has been committed since. A change
of code or pictures makes new names.
"""

import contextlib
import csv
import functools
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import Field, ValidationError

from pipeline.errors import UserError
from pipeline.evaluation.methods import METHODS
from pipeline.experiments.own_inputs import named_inputs, read_inputs
from pipeline.params import PARAMS_FILE, PIPELINE_FILE, Record, read_mapping
from pipeline.runtime import code
from pipeline.runtime.git import git
from pipeline.store import artifacts

Value = str | int | float | bool
_RUNNING = Path(".dvc/tmp/exps/run")  # DVC's records of the processes of experiments


class Sweep(Record):
    """A grid: every variant with every seed."""

    seeds: list[int] = Field(min_length=1)
    variants: dict[str, dict[str, Value]] = Field(min_length=1)  # what each changes in params.yaml
    reference: str  # the variant that the others are compared with; by default the first
    curves: list[str] = Field(default=[])  # variants whose accuracy over the tasks is drawn; by default all


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid."""

    name: str
    variant: str
    seed: int
    changes: Mapping[str, Value]
    inputs: str  # digest of the user's own files


@dataclass(frozen=True)
class Experiment:
    """A finished experiment: its commit, and the results in it."""

    name: str
    revision: str
    metrics: Mapping[str, float]
    over_tasks: list[float]  # average accuracy after each task


def read_sweep(path: Path) -> Sweep:
    """The grid that a file declares. Raises UserError for any mistake in it."""
    given = {key: value for key, value in read_mapping(path).items() if value is not None}
    if isinstance(variants := given.get("variants"), dict) and variants:
        given["variants"] = {name: {} if changes is None else changes for name, changes in variants.items()}
        given = {"reference": next(iter(variants)), "curves": list(variants), **given}
    try:
        sweep = Sweep(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    known = read_mapping(PARAMS_FILE)
    for variant in (sweep.reference, *sweep.curves):
        if variant not in sweep.variants:
            raise UserError(f"{path}: {variant!r} is not one of its variants")
    for variant, changes in sweep.variants.items():
        for key in changes:
            if not _has_key(known, key) or key in ("seed", "tasks"):
                raise UserError(f"{path}: variant {variant!r}: {key!r} is not a parameter that a variant can change")
    return sweep


def _has_key(params: Mapping[str, object], key: str) -> bool:
    """Whether a parameter has this name. `layernorm.norms` means an option in a block."""
    block, _, option = key.partition(".")
    options = params.get(block)
    return block in params and (not option or (isinstance(options, dict) and option in options))


def cells(sweep: Sweep) -> list[Cell]:
    """Every experiment of the grid, variant by variant, so that neighbours, which run in parallel, share no stage.

    Two variants with the same changes and names with the same letters are one experiment.
    """
    params = read_mapping(PARAMS_FILE)
    folder = git("rev-parse", "--show-prefix").strip()  # in a larger repository, to keep our experiments apart
    read = functools.cache(read_inputs)  # most variants use the same pictures
    grid = []
    for number, (variant, changes) in enumerate(sweep.variants.items(), start=1):
        inputs, of_code = read(named_inputs(params | changes)), code_digest(params | changes)
        for seed in sweep.seeds:
            whole = json.dumps([params | changes | {"seed": seed}, of_code, inputs.digest, folder], sort_keys=True)
            digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
            name = f"{_slug(variant) or f'variant-{number}'}-s{seed}-{digest}"
            grid.append(Cell(name, variant, seed, changes | inputs.elsewhere, inputs.digest))
    return grid


def _slug(variant: str) -> str:
    """The part of a variant's name that fits into an experiment's name, which git uses for a file; may be empty."""
    ascii_only = unicodedata.normalize("NFKD", variant).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.lower())[:80].strip("-")


def code_digest(params: Mapping[str, object]) -> str:
    """Digest of all modules that the stages up to evaluate run with these parameters."""
    stages, sources = read_mapping(PIPELINE_FILE)["stages"], code.read_sources()
    of_stages = {stage: code.digests(stage, sources, params) for stage in sorted(stages) if stage != "report"}
    return hashlib.sha256(json.dumps(of_stages).encode()).hexdigest()


def revisions() -> dict[str, str]:
    """Commit of every experiment of this repository, by name."""
    lines = git("for-each-ref", "refs/exps", "--format=%(objectname) %(refname)").splitlines()
    pairs = [(line.split()[0], line.split()[1].split("/")) for line in lines]
    return {parts[-1]: revision for revision, parts in pairs if len(parts) == 5}  # refs/exps/ab/cdef.../name


def load_experiment(name: str, revision: str) -> Experiment:
    """The results of a finished experiment."""
    # ./ means this folder, which may be inside a larger repository
    steps = csv.DictReader(io.StringIO(git("show", f"{revision}:./{artifacts.ACCURACY_OVER_TASKS}")))
    return Experiment(
        name=name,
        revision=revision,
        metrics=json.loads(git("show", f"{revision}:./{artifacts.METRICS}")),
        over_tasks=[float(step["accuracy"]) for step in steps if step["method"] == METHODS["c_ln"]],
    )


def enqueue(cell: Cell) -> None:
    """Put an experiment into DVC's queue, up to the stage evaluate, which computes all its numbers."""
    _dvc("exp", "run", "--queue", "--name", cell.name, *overrides(cell), "evaluate")


def overrides(cell: Cell) -> list[str]:
    """The arguments of `dvc exp run` that make it this experiment."""
    changes = {**cell.changes, "seed": cell.seed}
    return [argument for key, value in changes.items() for argument in ("-S", f"{key}={_quoted(value)}")]


def cache_folder() -> str:
    """DVC's cache, as an absolute path."""
    return _dvc("cache", "dir").strip()


def _quoted(value: Value) -> str:
    """A value in the syntax of Hydra, which DVC uses. Within quotes, a backslash is literal except before a quote."""
    if not isinstance(value, str):
        return json.dumps(value)
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (found[2] and "\\'"), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def start_workers(count: int) -> None:
    """Start workers in the background until `count` of them work on the queue."""
    _dvc("queue", "start", "-j", str(count))


def queue_states() -> dict[str, str]:
    """State of every experiment that the queue knows: Queued, Running, Success, Failed, ..."""
    rows = re.findall(r"^[0-9a-f]{7}\s+(\S+)\s.*?(\w+)\s*$", _dvc("queue", "status"), re.MULTILINE)
    return dict(rows)


def traces() -> frozenset[tuple[str, bytes]]:
    """What changes when an experiment starts or ends. To read it takes no time; to ask the queue, a second of work."""
    found = {("refs", name.encode()) for name in revisions()}
    for file in _RUNNING.glob("*/*.json"):
        with contextlib.suppress(FileNotFoundError):  # DVC has removed it in the meantime
            found.add((file.name, file.read_bytes()))
    return frozenset(found)


def count_workers() -> int:
    """The number of workers that work on the queue or look for work."""
    return sum(map(int, re.findall(r"(\d+) (?:active|idle)", _dvc("queue", "status"))))


def give_up_abandoned() -> None:
    """Mark experiments whose process is gone as failed. Otherwise the queue would show them as running for ever."""
    processes = {file.parent.name[:7]: json.loads(file.read_text()) for file in _RUNNING.glob("*/*.json")}
    gone = {task for task, known in processes.items() if known["returncode"] is None and not _is_alive(known["pid"])}
    if gone:
        running = re.findall(r"^([0-9a-f]{7})\s.*\bRunning\s*$", _dvc("queue", "status"), re.MULTILINE)
        for task in gone.intersection(running):
            _dvc("queue", "kill", task)


def _is_alive(pid: int) -> bool:
    """Whether this is still the experiment's process. After a power cut, another process may have its number."""
    try:
        return "exec-run" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def forget(names: Iterable[str]) -> None:
    """Remove failed experiments from the queue, so that they can be tried again."""
    for name in names:
        _dvc("queue", "remove", name)


def _dvc(*arguments: str) -> str:
    """The output of a DVC command. Ctrl-C waits until it ends, as it may have stashed the user's changes."""
    # No pipes: the queue's workers keep inherited files open as long as they work.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "dvc", *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)
        is_interrupted = False
        while process.returncode is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                is_interrupted = True
        if is_interrupted:
            raise KeyboardInterrupt
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            lines = errors.read().decode(errors="replace").strip().splitlines()
            said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
            raise UserError(f"dvc {' '.join(arguments[:2])} failed: {(said or lines or ['no message'])[-1]}")
        return output.read().decode(errors="replace")
