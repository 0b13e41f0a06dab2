"""Damages files, and judges what happens when a stage reads them; for tests and benchmarks.faults.corruption."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import params
from pipeline.errors import UserError

NAMED, HARMLESS, WRONG, TRACEBACK = "named in one line", "harmless: identical", "WRONG NUMBER", "TRACEBACK"
_BLOCK = 4096


class Damage(NamedTuple):
    """A damage of one of KINDS, at a position from 0 to 1 in a file."""

    kind: str
    place: float
    bit: int = 0

    def of(self, content: bytes) -> bytes:
        """The damaged content of a file."""
        damaged = bytearray(content)
        at = min(int(self.place * len(content)), len(content) - 1)
        if self.kind == "flip":
            damaged[at] ^= 1 << self.bit
        elif self.kind == "zeros":
            damaged[at : at + _BLOCK] = bytes(len(damaged[at : at + _BLOCK]))
        else:
            del damaged[at if self.kind == "truncate" else 0 :]
        return bytes(damaged)


KINDS = ("flip", "truncate", "empty", "zeros")


class Reader(NamedTuple):
    """A stage with its task, if it has one."""

    stage: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """DVC's name for it."""
        return "@".join((self.stage, *self.arguments))


def readers() -> dict[Path, list[Reader]]:
    """Every file that one stage of the repository in the working folder writes and others read.

    Digests of code are left out: a stage compares them with the code it has imported, but only if DVC runs it.
    """
    found: dict[Path, list[Reader]] = {}
    given = params.read_mapping(params.PARAMS_FILE)
    for stage, spec in params.read_mapping(params.PIPELINE_FILE)["stages"].items():
        for arguments, values in _instances(spec, given):
            for dependency in spec.get("do", spec)["deps"]:
                path = Path(re.sub(r"\$\{([\w.]+)\}", lambda match: values[match[1]], dependency))  # noqa: B023
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    if file.is_file() and file.parts[0] in ("data", "artifacts", "reports") and file.parts[1] != "code":
                        found.setdefault(file, []).append(Reader(stage, arguments))
    return found


def _instances(spec: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    plain = {name: str(value) for name, value in given.items()}
    if "foreach" not in spec:
        yield (), plain
    else:
        for task, item in given["tasks"].items():
            yield (task,), plain | {"key": task, "item.prev": item["prev"]}


def outcome(file: Path, run: Callable[[], object], digests: Callable[[], Mapping[str, str]]) -> str:
    """The outcome of running a stage that reads a damaged file. digests: those of everything but this file."""
    before = digests()
    try:
        run()
    except UserError as error:
        return NAMED if str(file) in str(error) and "\n" not in str(error) else f"{TRACEBACK}: {error}"
    except Exception as error:  # a user must never see any of these
        return f"{TRACEBACK}: {type(error).__name__}: {error}"
    return HARMLESS if digests() == before else WRONG
