"""Runs the stages that DVC would run, without DVC: those whose parameters or files are not as when they last ran."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.stage_order import in_order, run_stage
from pipeline.params import read_declared

_FOLDERS = ("data/train", "data/test_images")  # outputs of `split`, which DVC removes before the stage runs


class Repro:
    """Remembers what each stage ran with."""

    def __init__(self, run: Callable[..., object] = run_stage) -> None:
        """run: gets a stage and its task."""
        self._run, self._known = run, dict[str, object]()

    def __call__(self, num_tasks: int) -> list[str]:
        """Bring the working folder up to date; the stages that ran, by DVC's names, without `download`."""
        ran = []
        for stage, *task in in_order(num_tasks):
            name = "@".join((stage, *task))
            if stage == "download" or self._known.get(name) == (state := _state(name)):
                continue
            if stage == "split":
                for folder in _FOLDERS:
                    shutil.rmtree(folder, ignore_errors=True)
            self._run(stage, *task)
            self._known[name] = state
            ran.append(name)
        return ran


def _state(name: str) -> object:
    declared = read_declared(name)
    return declared.params, {file: _digest(path) for file, path in declared.files.items()}


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        whole.update(str(file).encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
