"""Git LFS pointers: a few lines of text that stand for a large file in a clone without `git lfs`."""

from pathlib import Path
from typing import BinaryIO

ADVICE = "is a Git LFS pointer, not the file itself (`git lfs pull` fetches it)"

_FIRST_LINE = b"version https://git-lfs.github.com/spec/"


def is_pointer(file: Path | BinaryIO) -> bool:
    """Whether a file is a pointer. In a file that is already open, this reads the first line."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return is_pointer(opened)
    file.seek(0)
    return file.read(len(_FIRST_LINE)) == _FIRST_LINE
