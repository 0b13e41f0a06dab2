"""Lets a killed training resume after its last finished epoch and end with the same bytes.

DVC removes a stage's outputs before it runs. So the state after each epoch lies in `.scratch/resume` of the main
repository, whichever folder DVC runs the experiment in, under the digest of everything that the numbers depend on. So
it is found again if and only if it is the right one. Only the number of threads may change: it moves no metric, and
an epoch may have taken an hour.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from pipeline.errors import UserError
from pipeline.machine import devices
from pipeline.machine.device import compute_precision
from pipeline.params import read_declared
from pipeline.progress import Progress
from pipeline.store import artifacts
from pipeline.tuning.state import Training

FOLDER = Path(".scratch/resume")
KEPT_SECONDS = 7 * 24 * 3600.0  # after which a state that nobody came back for is removed
_EPOCHS = "epochs"
_CHECKSUM = hashlib.sha256().digest_size  # bytes before the tensors


def state_file(stage: str, device: torch.device) -> Path:
    """Where the state of a stage (`stage_one@t1`) lies, by its parameters, files, torch, devices and precision.

    Raises UserError where one of the files is missing.
    """
    params, files = read_declared(stage)
    what = [stage, params, torch.__version__, device.type, devices.size(), str(compute_precision(device))]
    digest = hashlib.sha256(json.dumps(what, default=str).encode())
    for file in files.values():
        if not file.exists():
            raise UserError(f"{file} is missing: `dvc repro` makes it")
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return Path(os.environ.get("DVC_ROOT", ".")) / FOLDER / digest.hexdigest()


def state_files(stage: str, device: torch.device, parts: int) -> list[Path]:
    """The same for each part of a training. A finished part keeps its state until the last part has finished."""
    last = state_file(stage, device)
    return [*(last.with_name(f"{last.name}.{part}") for part in range(1, parts)), last]


def epochs(state: Path, progress: Progress, training: Training, count: int) -> Iterator[int]:
    """The epochs, of `count`, that are still to be done. The first begins with what was saved after the one before."""
    _prune(state.parent)
    done = 0
    if tensors := _load(state):
        done = int(tensors.pop(_EPOCHS))
        training.restore(tensors)
        progress.resume(done, count)
    del tensors
    devices.wait()  # nobody goes on, and removes it, before all have it
    for epoch in range(done, count):
        yield epoch
        _save(state, training.tensors() | {_EPOCHS: torch.tensor(epoch + 1)})


def remove(state: Path) -> None:
    """Remove the state of a training whose result is stored."""
    if devices.rank() == 0:
        state.unlink(missing_ok=True)


def _save(state: Path, tensors: dict[str, Tensor]) -> None:
    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    try:
        artifacts.save_bytes(state, hashlib.sha256(content).digest() + content)
    except UserError as error:  # the result is what counts
        print(f"a run that is killed now will repeat this epoch: {error}")


def _load(state: Path) -> dict[str, Tensor]:
    """The tensors; none if there is no state, or if it is not what was written."""
    if not state.exists():
        return {}
    content = memoryview(state.read_bytes())
    if hashlib.sha256(content[_CHECKSUM:]).digest() == content[:_CHECKSUM]:
        return load(bytes(content[_CHECKSUM:]))
    print(f"{state} is damaged: starting from the first epoch")
    return {}


def _prune(folder: Path) -> None:
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another experiment was faster
            if time.time() - file.stat().st_mtime > KEPT_SECONDS:
                file.unlink()
