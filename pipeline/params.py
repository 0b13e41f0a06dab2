"""Reads params.yaml for one stage: only the parameters it declares, each of the right type and in range.

A stage declares a `Params` record; a test holds its fields against the stage's `params:` in dvc.yaml. Names are checked
against all of dvc.yaml, so that a mistyped key is an error in every stage that runs. YAML is read as version 1.2, in
which 1e-05 (what `dvc exp run -S lr=0.00001` writes) is a number.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pipeline.errors import UserError

PARAMS_FILE = Path("params.yaml")
PIPELINE_FILE = Path("dvc.yaml")
CODE_ROOT = Path(__file__).parent.parent
_INTERPOLATION = re.compile(r"\$\{(\w+)(?:\.(\w+))?\}")


class Record(BaseModel):
    """Base of the stages' records: no unknown field, no conversion (`"0.01"` is no number), no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_params(record: type[AnyRecord]) -> AnyRecord:
    """The stage's parameters. Raises UserError, one line, for an unknown, missing, mistyped or out-of-range key."""
    given = read_mapping(PARAMS_FILE)
    known = set(declared(read_mapping(PIPELINE_FILE)))
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise UserError(f"{PARAMS_FILE}: unknown key {key!r}: {hint}")
    try:
        return record(**{name: given[name] for name in record.model_fields if name in given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        found = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise UserError(f"{PARAMS_FILE}: {where}: {first['msg'].lower()}{found}") from None


class Declared(NamedTuple):
    """What dvc.yaml lists for a stage."""

    params: dict[str, Any]  # with their values
    files: dict[str, Path]  # what it depends on, by the name it is listed under, and where that is


def read_declared(stage: str) -> Declared:
    """What dvc.yaml lists for a stage by DVC's name for it: `split`, or `stage_one@t1`, one of a `foreach`."""
    given = read_mapping(PARAMS_FILE)
    name, _, key = stage.partition("@")
    entry = read_mapping(PIPELINE_FILE)["stages"][name]
    values = given | {"key": key, "item": given["tasks"].get(key) if key else None}

    def value(match: re.Match[str]) -> str:
        outer, inner = match.groups()
        return str(values[outer][inner] if inner else values[outer])

    names = [_INTERPOLATION.sub(value, dependency) for dependency in entry.get("do", entry)["deps"]]
    return Declared(
        params=read_values(entry.get("do", entry)["params"]),
        files={name: CODE_ROOT / name if name.endswith(".py") else Path(name) for name in names},
    )


def read_values(names: Iterable[str]) -> dict[str, Any]:
    """What params.yaml says of some parameters, unchecked; None where it says nothing."""
    given = read_mapping(PARAMS_FILE)
    return {name: given.get(name) for name in names}


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file. Raises UserError, one line, where it is missing or not one."""
    try:
        content = _parsed(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} not found: run stages from the repository's root, best through `dvc repro`") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `name: value` lines")
    return content


@lru_cache(maxsize=4)
def _parsed(content: bytes) -> object:  # a stage reads the same files at its start and at its end
    return YAML(typ="safe", pure=True).load(content)


def declared(pipeline: dict[str, Any]) -> Iterator[str]:
    """Names of the parameters that the stages of a dvc.yaml depend on."""
    for stage in pipeline["stages"].values():
        yield from stage.get("do", stage).get("params", [])
