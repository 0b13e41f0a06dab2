"""Where artifacts are stored and how: the only module that knows paths and file formats.

Tensors are stored as safetensors and tables as JSON. Images are safetensors, too, written one by one, so no data set
has to fit into memory. A file appears whole or not at all (pipeline.store.whole_files). A damaged file is never read:
every file that git does not track carries the digest of its content (pipeline.store.seal). Paths are relative to the
repository's root, where DVC runs the stages.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from pipeline.errors import UserError
from pipeline.store import seal as seals
from pipeline.store.seal import BLANK, KEY, check_seal, seal
from pipeline.store.whole_files import readable, replacing, write

if TYPE_CHECKING:  # torch is imported only where tensors are read or written, so other commands start immediately
    from torch import Tensor

ORDERS = Path("lists/orders")  # lists that a user puts there
SPLITS = Path("lists/splits")

RAW_CLASSES = Path("data/raw/classes.json")
RAW_TRAIN = Path("data/raw/train.safetensors")
RAW_TEST = Path("data/raw/test.safetensors")
BACKBONE = Path("data/backbone.safetensors")
TASKS = Path("data/tasks.json")
DOMAINS = Path("data/domains.json")  # the domain of each task; empty if tasks are sets of classes
IMAGE_COUNTS = Path("data/image_counts.json")  # per task, for training and for testing
TEST = Path("data/test.safetensors")  # images in the order of the tasks

METHOD = Path("artifacts/method.json")  # the chosen parts
STREAM = Path("artifacts/stream.json")  # whether tasks are sets of classes or domains
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


def test_queries_file(task: str) -> Path:
    """The frozen backbone's output for the test images of a task."""
    return Path(f"artifacts/queries/test/{task}.safetensors")


def test_images_file(task: str) -> Path:
    """The digest of the test images of a task (pipeline.data.test_images)."""
    return Path(f"data/test_images/{task}.json")


def keys_file(task: str) -> Path:
    """The keys of all tasks up to this one."""
    return Path(f"artifacts/keys/{task}.safetensors")


def selector_file(task: str) -> Path:
    """The selector's state after this task."""
    return Path(f"artifacts/selectors/{task}.safetensors")


def bank_file(task: str) -> Path:
    """The tensors that all tasks up to this one have tuned, stacked."""
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
    """Store named tensors in a sealed file."""
    from safetensors.torch import save  # noqa: PLC0415

    content = memoryview(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
    end = 8 + int.from_bytes(content[:8], "little")
    header = _header(json.loads(bytes(content[8:end])), metadata or {})  # the library would write metadata in any order
    with replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(content[end:])
        seal(file, path.name)


_HEADER = 1024  # bytes; more than the names and shapes in a packed file need


def save_images(path: Path, images: Iterable[bytes | Tensor], fields: Mapping[str, Tensor]) -> None:
    """Store images one by one in a sealed file: either all uint8 [H, W, 3], or all the bytes of image files.

    fields: int64 [N] each, one value per image. The file has these fields, and `images` uint8 [N, H, W, 3] or `bytes`
    uint8 with `offsets` int64 [N + 1] (pipeline.data.images). Integers come first, so that they are aligned.
    """
    import torch  # noqa: PLC0415

    count = len(next(iter(fields.values())))
    integers = dict(fields) | {"offsets": torch.zeros(count + 1, dtype=torch.int64)}
    before = _HEADER + sum(8 * len(tensor) for tensor in integers.values())
    shape: tuple[int, ...] = ()
    with replacing(path) as file:
        file.seek(before)
        for index, image in enumerate(images):
            last, shape = shape, () if isinstance(image, bytes) else tuple(image.shape)
            if index and shape != last:
                raise UserError(
                    f"{path}: image {index} is {shape}, the one before {last}: did images change while they were read? "
                    "run `dvc repro` again"
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
    """The header of a safetensors file: a place for the seal at the start, and spaces at the end to align tensors."""
    text = json.dumps({"__metadata__": {KEY: BLANK, **metadata}, **tensors}).encode()
    return text + b" " * (-len(text) % 8)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory. Raises UserError if it is missing or damaged."""
    from safetensors.torch import load_file  # noqa: PLC0415

    with readable(path):
        check_seal(path)
        return load_file(path)


def array_size(path: Path) -> tuple[int, int] | None:
    """Height and width of the arrays in a packed file of images; None if it holds encoded images."""
    with readable(path), safe_open(path, framework="pt") as file:
        shape = file.get_slice("images").get_shape() if "images" in file.keys() else None  # noqa: SIM118  (no mapping)
    return shape and (shape[1], shape[2])


def load_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file of tensors. Raises UserError if it is missing or damaged."""
    with readable(path), safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        return metadata


def load_weights(path: Path, *, is_checked: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a backbone's file, and the configuration in its metadata.

    is_checked: the caller has checked the file's digest, so it need not have a seal.
    """
    from safetensors.torch import load_file  # noqa: PLC0415

    with readable(path):
        if not is_checked:
            check_seal(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError("no configuration in its metadata")
        return load_file(path), json.loads(metadata["config"])


def save_weights(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Store a backbone in a sealed file: its tensors, with its configuration in the metadata."""
    save_tensors(path, tensors, {"config": json.dumps(config)})


def save_json(path: Path, content: Mapping[str, object]) -> None:
    """Store a table in a sealed file, in a form that diffs well."""
    with replacing(path) as file:
        file.write(_json({KEY: BLANK, **content}))
        seal(file, path.name)


def load_json(path: Path) -> Any:  # noqa: ANN401 (a table of any shape)
    """The table in a file. Raises UserError if it is missing or damaged."""
    with readable(path):
        check_seal(path)
        content = json.loads(path.read_bytes())
        del content[KEY]
        return content


def save_plain_json(path: Path, content: object) -> None:
    """Store a table without a seal, for DVC, people and git."""
    write(path, _json(content))


def read_seal(path: Path, *, is_checked: bool = False) -> str:
    """The digest in a sealed file. Raises UserError if the file is missing or damaged.

    is_checked: also compare it with the content, which takes reading the whole file.
    """
    with readable(path):
        if is_checked:
            check_seal(path)
        return seals.read_seal(path)


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Store a table of columns, for DVC's plots."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write(path, text.getvalue().encode())


def save_bytes(path: Path, content: bytes) -> None:
    """Store any other bytes, such as the report or a figure."""
    write(path, content)
