"""Where artifacts lie and how they are stored: the one module that knows paths and file formats.

Tensors are safetensors, tables JSON; images are safetensors too, written one after the other, so that no data set has
to fit into memory. A file appears whole or not at all, and is read whole or not at all: all but what git tracks carry
the digest of their content (pipeline.store.seal). Every path is relative to the repository's root, where DVC runs the
stages.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import psutil
from safetensors import SafetensorError, safe_open

from pipeline.errors import REPAIR, UserError
from pipeline.store import seal as seals
from pipeline.store.seal import BLANK, KEY, check_seal, seal

if TYPE_CHECKING:  # torch is imported where tensors are read or written: commands that touch none start at once
    from torch import Tensor

RAW_CLASSES = Path("data/raw/classes.json")
RAW_TRAIN = Path("data/raw/train.safetensors")
RAW_TEST = Path("data/raw/test.safetensors")
BACKBONE = Path("data/backbone.safetensors")
TASKS = Path("data/tasks.json")
IMAGE_COUNTS = Path("data/image_counts.json")  # of each task, for training and for testing
TEST = Path("data/test.safetensors")  # images in the order of the tasks

METHOD = Path("artifacts/method.json")  # the parts that are chosen
BACKBONE_FACTS = Path("artifacts/backbone.json")
KEYS = Path("artifacts/keys.safetensors")
TEST_QUERIES = Path("artifacts/queries/test.safetensors")
LEARNER = Path("artifacts/learner.json")
REMATCH = Path("artifacts/rematch.safetensors")
EVALUATION = Path("artifacts/evaluation.json")

METRICS = Path("reports/metrics.json")
ACCURACY_MATRIX = Path("reports/accuracy_matrix.csv")
ACCURACY_OVER_TASKS = Path("reports/accuracy_over_tasks.csv")
SELECTION = Path("reports/selection.csv")
REPORT = Path("reports/report.md")
FIGURES = Path("reports/figures")
COMPARISON = Path("reports/comparison.md")
COMPARISON_JSON = Path("reports/comparison.json")
COMPARISON_FIGURES = Path("reports/comparison")


def code_file(stage: str) -> Path:
    """Digests of the modules that a stage runs."""
    return Path(f"artifacts/code/{stage}.json")


def train_file(task: str) -> Path:
    """Training images of a task."""
    return Path(f"data/train/{task}.safetensors")


def train_queries_file(task: str) -> Path:
    """The frozen backbone's output for the training images of a task."""
    return Path(f"artifacts/queries/train/{task}.safetensors")


def selector_file(task: str) -> Path:
    """What the selector has learned of all tasks up to this one."""
    return Path(f"artifacts/selectors/{task}.safetensors")


def bank_file(task: str) -> Path:
    """What all tasks up to this one have tuned, stacked."""
    return Path(f"artifacts/banks/{task}.safetensors")


def features_file(task: str) -> Path:
    """Training features of this task, test features of all tasks up to it."""
    return Path(f"artifacts/features/{task}.safetensors")


def auxiliary_heads_file(task: str) -> Path:
    """The heads with which stage one tuned the LayerNorms of all tasks up to this one."""
    return Path(f"artifacts/auxiliary_heads/{task}.safetensors")


def heads_file(task: str) -> Path:
    """Classifier rows of all tasks up to this one."""
    return Path(f"artifacts/heads/{task}.safetensors")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Store named tensors, sealed."""
    from safetensors.torch import save  # noqa: PLC0415

    content = memoryview(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
    end = 8 + int.from_bytes(content[:8], "little")
    header = _header(json.loads(bytes(content[8:end])), metadata or {})  # the library would write metadata in any order
    with _replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(content[end:])
        seal(file, path.name)


_HEADER = 1024  # bytes; more than the names and shapes of a packed file need


def save_images(path: Path, images: Iterable[bytes | Tensor], fields: Mapping[str, Tensor]) -> None:
    """Store images one after the other, all of them uint8 [H, W, 3] or all the bytes of image files, sealed.

    fields: int64 [N] each, what is known of every image. The result has them, and `images` uint8 [N, H, W, 3] or
    `bytes` uint8 with `offsets` int64 [N + 1] (pipeline.data.images). Integers stand first, where they are aligned.
    """
    import torch  # noqa: PLC0415

    count = len(next(iter(fields.values())))
    integers = dict(fields) | {"offsets": torch.zeros(count + 1, dtype=torch.int64)}
    before = _HEADER + sum(8 * len(tensor) for tensor in integers.values())
    shape: tuple[int, ...] = ()
    with _replacing(path) as file:
        file.seek(before)
        for index, image in enumerate(images):
            last, shape = shape, () if isinstance(image, bytes) else tuple(image.shape)
            if index and shape != last:
                raise UserError(
                    f"{path}: image {index} is {shape}, the one before {last}: did images change while they were read? "
                    "`dvc repro` begins again"
                )
            size = file.write(image if isinstance(image, bytes) else image.numpy().tobytes())
            integers["offsets"][index + 1] = integers["offsets"][index] + size
        total = int(integers["offsets"][-1])
        layout = {name: ("I64", [len(tensor)], 8 * len(tensor)) for name, tensor in integers.items()}
        layout |= {"images": ("U8", [count, *shape], total)} if shape else {"bytes": ("U8", [total], total)}
        header, start = {}, 0
        for name, (dtype, dims, size) in layout.items():
            header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [start, start + size]}
            start += size
        file.seek(0)
        file.write((_HEADER - 8).to_bytes(8, "little") + _header(header, {}).ljust(_HEADER - 8))
        for tensor in integers.values():
            file.write(tensor.numpy().tobytes())
        seal(file, path.name)


def _header(tensors: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file: the place for its seal first, and spaces up to where tensors are aligned."""
    text = json.dumps({"__metadata__": {KEY: BLANK, **metadata}, **tensors}).encode()
    return text + b" " * (-len(text) % 8)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory. Raises UserError where it is missing or damaged."""
    from safetensors.torch import load_file  # noqa: PLC0415

    with _readable(path):
        check_seal(path)
        return load_file(path)


def load_metadata(path: Path) -> dict[str, str]:
    """What a file of tensors says of itself. Raises UserError where it is missing or damaged."""
    with _readable(path), safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        return metadata


def load_weights(path: Path, *, is_checked: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a backbone's file, and the configuration in its metadata.

    is_checked: the caller has compared the file with a digest of its own; it need not be sealed.
    """
    from safetensors.torch import load_file  # noqa: PLC0415

    with _readable(path):
        if not is_checked:
            check_seal(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError("no configuration in its metadata")
        return load_file(path), json.loads(metadata["config"])


def save_weights(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Store a backbone, sealed: its tensors, and its configuration in the metadata."""
    save_tensors(path, tensors, {"config": json.dumps(config)})


def save_json(path: Path, content: Mapping[str, object]) -> None:
    """Store a table, sealed, in a form that diffs well."""
    with _replacing(path) as file:
        file.write(_json({KEY: BLANK, **content}))
        seal(file, path.name)


def load_json(path: Path) -> Any:  # noqa: ANN401 (a table of any shape)
    """The table of a file. Raises UserError where it is missing or damaged."""
    with _readable(path):
        check_seal(path)
        content = json.loads(path.read_bytes())
        del content[KEY]
        return content


def save_plain_json(path: Path, content: object) -> None:
    """Store a table that others read, DVC and people, and that git guards."""
    _write(path, _json(content))


def read_seal(path: Path, *, is_checked: bool = False) -> str:
    """The digest that a sealed file bears. Raises UserError where the file is missing or damaged.

    is_checked: compare it with the content, which is read for that.
    """
    with _readable(path):
        if is_checked:
            check_seal(path)
        return seals.read_seal(path)


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Store a table of columns, for DVC's plots."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    _write(path, text.getvalue().encode())


def save_bytes(path: Path, content: bytes) -> None:
    """Store anything else: weights as they came, the report, a figure."""
    _write(path, content)


def _write(path: Path, content: bytes) -> None:
    with _replacing(path) as file:
        file.write(content)


@contextmanager
def _replacing(path: Path) -> Iterator[BufferedRandom]:
    """Beside the target first, renamed last: the file appears whole or not at all. One device writes for all."""
    if not _writes():
        with TemporaryFile() as nowhere:
            yield nowhere
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{beside.stem}.*"):
            if left.suffix[1:].isdigit() and not psutil.pid_exists(int(left.suffix[1:])):
                left.unlink(missing_ok=True)  # of a process that was killed
        try:
            with beside.open("w+b") as file:
                yield file
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}: make room or grant access, then `dvc repro`"
        ) from None


def _writes() -> bool:
    """Whether this process writes for all devices: a process that has not loaded torch is the only one."""
    if "torch" not in sys.modules:
        return True
    from pipeline.machine import devices  # noqa: PLC0415

    return devices.rank() == 0


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        remedy = f"`dvc repro` makes it, or `dvc checkout` brings it back; where neither does, {REPAIR}"
        raise UserError(f"{path} is missing: {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}: grant access, then `dvc repro`") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {REPAIR}") from None
