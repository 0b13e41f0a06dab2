"""Which code a stage runs: its own module, and all modules of this repository that it imports, found by reading them.
DVC does not see imports. When the modules of every stage were listed one by one, dvc.lock became so long that reading
and writing it took DVC longer than a small stage computes. So the stage `code` writes one file of digests for every
other stage, and that stage depends on the file.
"""

import ast
import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pipeline.parts import PLACES

ROOT = Path(__file__).parents[2]
_PACKAGE = "__init__.py"
Sources = Mapping[Path, bytes]  # by path from the root


def read_sources(*folders: str) -> dict[Path, bytes]:
    """Every module in some folders, at any depth; by default those of the pipeline. An editor's hidden files are none:
    Emacs locks x.py by a link `.#x.py` to nothing.
    """
    found = (file for folder in folders or ("pipeline", "stages") for file in (ROOT / folder).rglob("*.py"))
    files = [file for file in found if not file.name.startswith(".") and file.is_file()]
    return {file.relative_to(ROOT): file.read_bytes() for file in files}


# What a stage that DVC runs is about to import: read before anything else is.
AT_START = read_sources() if "DVC_STAGE" in os.environ else {}


def modules(start: Path, sources: Sources) -> set[Path]:
    """The modules that running `start` reads, itself included, wherever in a file the import stands. A package's
    __init__.py counts if it holds more than a docstring.
    """
    by_name = {_name_of(file): file for file, source in sources.items() if file.name != _PACKAGE or _has_code(source)}
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            names = _imports_of(file, sources[file]) | _with_packages(_name_of(file))
            waiting += [by_name[name] for name in names if name in by_name]
    return found


def digests(stage: str, sources: Sources, chosen: Mapping[str, object]) -> dict[str, str]:
    """SHA-256 of every module that a stage runs, by its path.

    chosen: the name of the part that each parameter of pipeline.parts chooses. A stage that imports the contract of
    such parts runs the chosen one.
    """
    found = modules(Path(f"stages/{stage}.py"), sources)
    for parameter, place in PLACES.items():
        part = place.folder / f"{chosen.get(parameter)}.py"
        if place.contract in found and part in sources:  # a name of no part is refused by the stage `method`
            found |= modules(part, sources)
    return {file.as_posix(): digest(sources[file]) for file in sorted(found)}


def digest(source: bytes) -> str:
    """SHA-256 of a module."""
    return hashlib.sha256(source).hexdigest()


@lru_cache(maxsize=1024)
def _name_of(file: Path) -> str:
    """How a module is imported; a package is its __init__.py."""
    return ".".join((file.parent if file.name == _PACKAGE else file.with_suffix("")).parts)


def _with_packages(name: str) -> set[str]:
    """A module, and the packages above it, which are imported with it."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


@lru_cache(maxsize=1024)  # many stages import a module
def _imports_of(file: Path, source: bytes) -> frozenset[str]:
    """Every name that a module imports, with the packages above it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(part for name in names for part in _with_packages(name))


@lru_cache(maxsize=64)
def _has_code(package: bytes) -> bool:
    """Whether a package's __init__.py holds more than a docstring."""
    return len(ast.parse(package).body) > 1
