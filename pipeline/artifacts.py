"""Where artifacts lie and how they are stored: the one module that knows paths and file formats.

Tensors are safetensors, tables JSON. A file appears whole or not at all. Every path is relative to the repository's
root, where DVC runs the stages.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.errors import UserError

RAW_CLASSES = Path("data/raw/classes.json")
RAW_TRAIN = Path("data/raw/train.safetensors")
RAW_TEST = Path("data/raw/test.safetensors")
BACKBONE = Path("data/backbone.safetensors")
TASKS = Path("data/tasks.json")
TEST = Path("data/test.safetensors")  # images in the order of the tasks

BACKBONE_FACTS = Path("artifacts/backbone.json")
KEYS = Path("artifacts/queries/keys.safetensors")
TEST_QUERIES = Path("artifacts/queries/test.safetensors")
EVALUATION = Path("artifacts/evaluation.json")

METRICS = Path("reports/metrics.json")
ACCURACY_MATRIX = Path("reports/accuracy_matrix.csv")
ACCURACY_OVER_TASKS = Path("reports/accuracy_over_tasks.csv")
SELECTION = Path("reports/selection.csv")
REPORT = Path("reports/report.md")
FIGURES = Path("reports/figures")


def train_file(task: str) -> Path:
    """Training images of a task."""
    return Path(f"data/train/{task}.safetensors")


def train_queries_file(task: str) -> Path:
    """The frozen backbone's output for the training images of a task."""
    return Path(f"artifacts/queries/train/{task}.safetensors")


def layernorms_file(task: str) -> Path:
    """LayerNorms of all tasks up to this one, stacked."""
    return Path(f"artifacts/layernorms/{task}.safetensors")


def features_file(task: str) -> Path:
    """Training features of this task, test features of all tasks up to it."""
    return Path(f"artifacts/features/{task}.safetensors")


def heads_file(task: str) -> Path:
    """Classifier rows of all tasks up to this one."""
    return Path(f"artifacts/heads/{task}.safetensors")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Store named tensors."""
    _write(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory. Raises UserError where it is missing or damaged."""
    with _readable(path):
        return load_file(path)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a backbone's file, and the configuration in its metadata."""
    tensors = load_tensors(path)
    with _readable(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError("no configuration in its metadata")
        return tensors, json.loads(metadata["config"])


def save_json(path: Path, content: object) -> None:
    """Store a table, in a form that diffs well."""
    _write(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def load_json(path: Path) -> Any:  # noqa: ANN401 (a table of any shape)
    """The table of a file. Raises UserError where it is missing or damaged."""
    with _readable(path):
        return json.loads(path.read_bytes())


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Store a table of columns, for DVC's plots."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    _write(path, text.getvalue().encode())


def save_bytes(path: Path, content: bytes) -> None:
    """Store anything else: weights as they came, the report, a figure."""
    _write(path, content)


def _write(path: Path, content: bytes) -> None:
    """Beside the target first, renamed last: the file appears whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}: make room or grant access, then `dvc repro`") from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `dvc repro` makes it") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, then `dvc repro`") from None
