"""A file appears whole or not at all, and a file that cannot be read or written is named in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from tempfile import TemporaryFile

import psutil
from safetensors import SafetensorError

from pipeline.errors import REPAIR, UserError


def write(path: Path, content: bytes) -> None:
    """Store these bytes."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """Write next to the target, then rename: the file appears whole or not at all. One device writes for all."""
    if not _writes():
        with TemporaryFile() as nowhere:
            yield nowhere
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{beside.stem}.*"):
            if left.suffix[1:].isdigit() and not psutil.pid_exists(int(left.suffix[1:])):
                left.unlink(missing_ok=True)  # left by a process that was killed
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
    """Whether this process writes for all devices. A process that has not loaded torch is the only one."""
    if "torch" not in sys.modules:
        return True
    from pipeline.machine import devices  # noqa: PLC0415

    return devices.rank() == 0


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises UserError with a remedy where a file cannot be read, or has content that its format does not allow."""
    try:
        yield
    except FileNotFoundError:
        remedy = f"`dvc repro` makes it, or `dvc checkout` restores it; if neither does, {REPAIR}"
        raise UserError(f"{path} is missing: {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}: grant access, then `dvc repro`") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {REPAIR}") from None
