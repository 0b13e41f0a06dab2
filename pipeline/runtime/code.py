"""Which code a stage runs: its module, and all of this repository's that it imports, found by reading them.

DVC sees no import. Listed one by one, the modules of every stage made dvc.lock so long that reading and writing it took
DVC longer than a small stage computes; so the stage `code` writes a file of digests for each other one, which depends
on it.
"""

import ast
import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pipeline.parts import PLACES

ROOT = Path(__file__).parents[2]
Sources = Mapping[Path, bytes]  # by path from the root


def read_sources(*folders: str) -> dict[Path, bytes]:
    """Every module in some folders, at any depth; by default those of the pipeline."""
    files = [file for folder in folders or ("pipeline", "stages") for file in (ROOT / folder).rglob("*.py")]
    return {file.relative_to(ROOT): file.read_bytes() for file in files}


# What a stage that DVC runs is about to import: read before anything else is.
AT_START = read_sources() if "DVC_STAGE" in os.environ else {}


def modules(start: Path, sources: Sources) -> set[Path]:
    """Those that running `start` reads, itself included, wherever in a file the import stands.

    A package's __init__.py counts where it holds more than a docstring.
    """
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [target for name in _imported_names(file, sources) for target in _files_of(name, sources)]
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


def _imported_names(file: Path, sources: Sources) -> set[str]:
    own_name = ".".join(file.with_suffix("").parts)  # the packages above it are imported too
    return {own_name} | _imports_of(file, sources[file])


@lru_cache(maxsize=1024)  # many stages import a module
def _imports_of(file: Path, source: bytes) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


@lru_cache(maxsize=64)
def _has_code(package: bytes) -> bool:
    """Whether a package's __init__.py holds more than a docstring."""
    return len(ast.parse(package).body) > 1


def _files_of(name: str, sources: Sources) -> list[Path]:
    parts = name.split(".")
    packages = [Path(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    with_code = [package for package in packages if package in sources and _has_code(sources[package])]
    module = Path(*parts).with_suffix(".py")
    return with_code + ([module] if module in sources else [])
