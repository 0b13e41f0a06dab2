"""Tests whether the same parameters give the same bytes, whatever else differs.

    python -m benchmarks.faults.determinism [CHANGE...]

A small copy of the project runs once unchanged, with one thread, then under each change: its stages one after the
other, or by DVC's queue and temporary experiments. Every artifact and report is compared. If bytes differ, the table
says by how much: tensors relative to their largest value, metrics in points.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from safetensors.torch import load_file

from harness.stage_order import in_order, run_stage
from pipeline.runtime import stage_server

ROOT = Path(__file__).parents[2]
FOLDERS = ("data", "artifacts", "reports")
SMALLER = {"num_tasks": 2, "epochs": 2}  # the first tasks of the default run
IMAGES = ("TRAIN_PER_CLASS = 40", "TRAIN_PER_CLASS = 10"), ("TEST_PER_CLASS = 40", "TEST_PER_CLASS = 10")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ONE_THREAD = dict.fromkeys(THREADS, "1")


def instructions(aten: str, onednn: str, mkl: str) -> dict[str, str]:
    """Environment variables that keep torch and its libraries from using a processor's newer instructions."""
    return {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}


CHANGES: dict[str, tuple[Mapping[str, str], str]] = {  # environment variables, and how the pipeline is run
    "again": ({}, "repro"),
    "another folder, with spaces": ({}, "folder"),
    "another time zone": ({"TZ": "Pacific/Chatham"}, "repro"),
    "another locale": ({"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"}, "repro"),
    "no UTF-8": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}, "repro"),
    "PYTHONHASHSEED=1": ({"PYTHONHASHSEED": "1"}, "repro"),
    "PYTHONHASHSEED=2": ({"PYTHONHASHSEED": "2"}, "repro"),
    "DVC's queue": ({}, "queue"),
    "a temporary experiment": ({}, "temp"),
    "two threads": (dict.fromkeys(THREADS, "2"), "repro"),
    "a processor without AVX-512": (instructions("avx2", "AVX2", "AVX2"), "repro"),
    "a processor without AVX": (instructions("default", "SSE41", "SSE4_2"), "repro"),
}


class Difference(NamedTuple):
    """How another run differs."""

    files: list[str]
    tensors: float  # largest difference, as a share of the tensor's largest value
    metrics: float  # largest difference of a metric that is a fraction


def make_project(folder: Path) -> None:
    """The working tree's files, with a quarter of the images and two tasks, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.startswith(("reports/", "dvc.lock", "tests/", "docs/")) and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    module = folder / "pipeline/data/sets/glyph_images.py"
    text = module.read_text()
    for old, new in IMAGES:
        text = text.replace(old, new)
    module.write_text(text)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml") | SMALLER
    params["tasks"] = {"t1": {"prev": "t0"}, "t2": {"prev": "t1"}}
    yaml.dump(params, folder / "params.yaml")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "project"]):
        _run(["git", *command], folder, {})


def run_pipeline(project: Path, folder: Path, variables: Mapping[str, str], how: str) -> Path:
    """Run a clone of the project in an empty folder, without a cache. Returns the folder with its files."""
    clone = folder / ("a folder elsewhere" if how == "folder" else "clone")
    _run(["git", "clone", "-q", str(project), str(clone)], folder, {})
    if how not in ("queue", "temp"):
        _run(["python", "-m", "benchmarks.faults.determinism", "stages"], clone, variables)
        return clone
    server = stage_server.start(os.environ | ONE_THREAD)
    variables = {"PATH": server.environment["PATH"], **variables}
    _run(["dvc", "exp", "run", "--queue" if how == "queue" else "--temp", "--name", "one"], clone, variables)
    if how == "queue":
        _run(["dvc", "queue", "start"], clone, variables)
        _run(["dvc", "queue", "logs", "one", "--follow"], clone, variables)
    _run(["dvc", "exp", "apply", "one"], clone, variables)
    stage_server.stop(server)
    return clone


def run_stages() -> None:
    """Run every stage in this process, which has imported everything, and in this folder."""
    for stage in in_order(2):
        run_stage(*stage)


def _run(command: list[str], folder: Path, variables: Mapping[str, str]) -> None:
    people = {f"GIT_{who}_{what}": "bench@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | people | {"PATH": path, "DVC_NO_ANALYTICS": "1"} | ONE_THREAD | dict(variables)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file that the pipeline has written."""
    files = [path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def compare(first: Path, second: Path) -> Difference:
    """Where the files of two runs differ."""
    before, after = contents(first), contents(second)
    assert before.keys() == after.keys(), before.keys() ^ after.keys()
    files = [name for name in before if before[name] != after[name]]
    tensors = [_relative(first / name, second / name) for name in files if name.endswith(".safetensors")]
    metrics = [json.loads(run["reports/metrics.json"]) for run in (before, after)]
    fractions = [name for name in metrics[0] if name.endswith("_accuracy") or name.startswith("forgetting")]
    points = max(abs(metrics[0][name] - metrics[1][name]) for name in fractions)
    return Difference(files, max(tensors, default=0.0), points)


def _relative(first: Path, second: Path) -> float:
    before, after = load_file(first), load_file(second)
    if any(before[name].shape != after[name].shape for name in before):
        return float("inf")  # other shapes: other passes were needed
    shares = [
        float((before[name].double() - after[name].double()).abs().max() / before[name].double().abs().max())
        for name in before
        if before[name].is_floating_point() and before[name].numel()
    ]
    return max(shares, default=0.0)


def main() -> None:
    """Run all changes, and print the table."""
    if sys.argv[1:] == ["stages"]:
        run_stages()
        return
    console = Console(highlight=False)
    table = Table("change", "files that differ", "tensors by", "metrics by (points)")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "project").mkdir()
        make_project(root / "project")
        (root / "first").mkdir()
        first = run_pipeline(root / "project", root / "first", {}, "repro")
        count = len(contents(first))
        for number, name in enumerate(sys.argv[1:] or CHANGES):
            variables, how = CHANGES[name]
            folder = root / str(number)
            folder.mkdir()
            difference = compare(first, run_pipeline(root / "project", folder, variables, how))
            row = (f"{difference.tensors:.1e}", f"{100 * difference.metrics:.2f}") if difference.files else ("", "")
            table.add_row(name, f"{len(difference.files) or 'none'} of {count}", *row)
            console.print(f"{name}: {row} {difference.files}", soft_wrap=True)
            sys.stdout.flush()
    console.print(table)


if __name__ == "__main__":
    main()
