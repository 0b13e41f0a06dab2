"""A folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the target, which gets the target's name at the end.

    Raises UserError if the target is a file or is not empty, and if nothing can be written there.
    """
    target = folder.resolve()
    if target.is_mount():
        raise UserError(f"{folder} is a mount point, which no folder can replace: name a folder inside it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name another one, or remove it first")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        try:
            yield beside
            beside.replace(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}: make room or grant access") from None
