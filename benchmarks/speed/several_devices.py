"""Compares two processes on this machine, as two devices, with one: equal numbers, and the cost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.speed.ratios import Row, row, seconds
from harness.clone import clone, run_dvc
from pipeline.store import artifacts

TWO = {"DEVICE": "cpu", "DEVICES": "2"}
LAST = "t5"
ROUNDING = 1e-5


def rows() -> Iterator[Row]:
    """Compare the default run on one device and on two. Times include the start of the processes."""
    folder = clone("several_devices")
    run_dvc(folder, "repro", "-f", "evaluate")
    one, query_bytes = results(folder), queries(folder)
    command = [sys.executable, "-m", "stages.stage_one", "t1"]
    alone = seconds(lambda: subprocess.run(command, cwd=folder, check=True))
    with mock.patch.dict(os.environ, TWO):
        run_dvc(folder, "repro", "-f", "evaluate")
        two = results(folder)
        together = seconds(lambda: subprocess.run(command, cwd=folder, check=True))
    largest = max(float((one[0][name] - tensor).abs().max()) for name, tensor in two[0].items())
    yield row(
        "LayerNorms after five tasks, two processes - one: largest difference", largest / ROUNDING, "<= 1", "1e-5"
    )
    yield row(
        "metrics that differ, two processes and one", sum(one[1][name] != two[1][name] for name in one[1]), "0", ""
    )
    yield row("files of queries that differ, two processes and one", len(query_bytes ^ queries(folder)), "0", "")
    yield row("stage one of a task on two cores, two processes / one, start included", together / alone, "", "x time")


def results(folder: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """LayerNorms of all tasks, and metrics."""
    metrics = artifacts.load_json(folder / artifacts.EVALUATION)["metrics"]
    return load_file(folder / artifacts.bank_file(LAST)), metrics


def queries(folder: Path) -> set[bytes]:
    """The bytes of every file of queries."""
    return {file.read_bytes() for file in (folder / "artifacts/queries").rglob("*.safetensors")}
