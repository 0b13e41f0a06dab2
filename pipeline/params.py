"""Reads params.yaml for one stage: only the parameters it declares, each of the right type and in range.

A stage declares a `Params` record; a test compares its fields with the stage's `params:` in dvc.yaml. Names are checked
against all of dvc.yaml, so a mistyped key is an error in every stage that runs. YAML is read as version 1.2, in which
1e-05 (what `dvc exp run -S lr=0.00001` writes) is a number.
"""

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pipeline import parts
from pipeline.errors import UserError

PARAMS_FILE = Path("params.yaml")
PIPELINE_FILE = Path("dvc.yaml")
_MOST_VALUES = 100_000

# A value beyond these is a typing error: the run would never finish, not fit into memory or overflow.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
ImageSize = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(gt=0, le=1000)]  # learning rate
Scale = Annotated[float, Field(ge=0, le=10)]  # of a change: 1 leaves it as it is
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """Base of the stages' records. Refuses unknown fields, conversions (`"0.01"` is no number), NaN and infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class NoOptions(Record):
    """The options of a part that has none."""


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_params(record: type[AnyRecord]) -> AnyRecord:
    """The stage's parameters. Raises UserError, one line, for an unknown, missing, mistyped or out-of-range key."""
    given = read_mapping(PARAMS_FILE)
    known = known_keys()
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise UserError(f"{PARAMS_FILE}: unknown key {key!r}: {hint}")
    return _validated(record, {name: given[name] for name in record.model_fields if name in given})


def read_block(name: str, record: type[AnyRecord]) -> AnyRecord:
    """The options of a part: the block of params.yaml with its name. Raises UserError as read_params does."""
    block = read_mapping(PARAMS_FILE).get(name)
    if not isinstance(block, dict):
        raise UserError(f"{PARAMS_FILE}: {name}: expected the options of this part, `{name}: {{}}` if it has none")
    return _validated(record, block, name)


def _validated(record: type[AnyRecord], values: Mapping[str, object], *above: str) -> AnyRecord:
    try:
        return record(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (*above, *first["loc"]) if part != "[key]")
        found = "" if first["type"] == "missing" else f", found {reprlib.repr(first['input'])}"
        raise UserError(f"{PARAMS_FILE}: {where}: {first['msg'].lower()}{found}") from None


def known_keys() -> set[str]:
    """Every key that params.yaml may have: those that stages declare, and one block per part with options."""
    names = set(declared(read_mapping(PIPELINE_FILE)))
    plain = {name for name in names if not name.startswith("${")}
    return plain | {part for reference in names - plain for part in parts.names(reference.strip("${}"))}


class Declared(NamedTuple):
    """What dvc.yaml lists for a stage."""

    params: dict[str, Any]  # name -> value
    files: dict[str, Path]  # dependency as dvc.yaml writes it -> its path


class _Reference(Template):
    """`${key}`, `${item.prev}`: a reference in dvc.yaml. DVC's own resolver is no option, as no stage needs DVC."""

    idpattern = "(?!)"  # always in braces
    braceidpattern = r"\w+(?:\.\w+)?"


def read_declared(stage: str) -> Declared:
    """What dvc.yaml lists for a stage. The name is DVC's: `split`, or `stage_one@t1` for one of a `foreach`.

    Raises UserError if params.yaml lacks a key that dvc.yaml refers to.
    """
    name, _, key = stage.partition("@")
    entry = read_mapping(PIPELINE_FILE)["stages"][name]
    listed = entry.get("do", entry)
    given = read_mapping(PARAMS_FILE)
    tasks = given.get("tasks")
    item = tasks.get(key) if isinstance(tasks, dict) else None
    fields = item.items() if isinstance(item, dict) else ()
    values = given | {"key": key} | {f"item.{field}": value for field, value in fields}
    try:
        files, params = (
            [_Reference(text).substitute(values) for text in listed.get(of, [])] for of in ("deps", "params")
        )
    except KeyError as error:
        reference = f"${{{error.args[0]}}} in {PIPELINE_FILE}"
        raise UserError(f"{PARAMS_FILE}: {reference} has no value for {stage}") from None
    return Declared(params=read_values(params), files={file: Path(file) for file in files})


def read_values(names: Iterable[str]) -> dict[str, Any]:
    """The values of some parameters in params.yaml, unchecked; None for a missing one."""
    given = read_mapping(PARAMS_FILE)
    return {name: given.get(name) for name in names}


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError, one line, if the file is missing or is no mapping."""
    try:
        content = _parsed(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} not found: run stages from the repository's root, best through `dvc repro`") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:
        # Text that is not UTF-8, is nested too deeply, or does not match its tag: ruamel.yaml passes on whatever its
        # helpers raise.
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML: {type(error).__name__}: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: expected `name: value` lines")
    _check_size(path, content)
    return content


def _check_size(path: Path, content: object) -> None:
    """Raises UserError for more values than anyone would write: aliases of aliases, or an alias of itself."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += 1
        if count > _MOST_VALUES:
            raise UserError(f"{path}: more than {_MOST_VALUES:,} values: do its aliases (*name) refer to one another?")


@lru_cache(maxsize=4)
def _parsed(content: bytes) -> object:  # cached: a stage reads the same files at its start and at its end
    return YAML(typ="safe", pure=True).load(content)


def declared(pipeline: dict[str, Any]) -> Iterator[str]:
    """Names of the parameters that the stages of a dvc.yaml depend on; `${tuning}` stands for the block of a part."""
    for stage in pipeline["stages"].values():
        yield from stage.get("do", stage).get("params", [])
