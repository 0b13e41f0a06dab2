"""Reads the lists that a user puts into lists/: orders of classes and splits."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError


def listed_file(folder: Path, name: str, parameter: str, others: Sequence[str]) -> Path:
    """The file of this name in a folder of lists; others: values that are no file. Raises UserError if missing."""
    path = folder / name
    if path.parent != folder or not path.is_file():
        here = folder.iterdir() if folder.is_dir() else ()
        known = ", ".join((*others, *sorted(file.name for file in here if not file.name.startswith("."))))
        raise UserError(
            f"params.yaml: {parameter} {name!r} is unknown: choose one of {known}, or put a file of this name "
            f"into {folder}"
        )
    return path


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not empty. Raises UserError for a file that is no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return [line.strip() for line in lines if line.strip()]
