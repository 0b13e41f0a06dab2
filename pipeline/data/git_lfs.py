"""Pointers of Git LFS: a few lines of text that a clone without `git lfs` has in place of a large file."""

from pathlib import Path
from typing import BinaryIO

ADVICE = "is a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)"

_FIRST_LINE = b"version https://git-lfs.github.com/spec/"


def is_pointer(file: Path | BinaryIO) -> bool:
    """Whether a file is a pointer; one that is open stands then behind the first line."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return is_pointer(opened)
    file.seek(0)
    return file.read(len(_FIRST_LINE)) == _FIRST_LINE
