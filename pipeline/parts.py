"""Parts that params.yaml chooses by name: what is tuned, what selects a task, what classifies.

A part is one file in its folder: `tuning: lora` is `pipeline/tuning/kinds/lora.py`. No table lists the parts: every
stage would import it, and an edit of one part would rerun the experiments of all others.
"""

import difflib
import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from pipeline.errors import UserError


class Place(NamedTuple):
    """Where the parts of one parameter are."""

    folder: Path  # one module per part
    contract: Path  # the module that every part and every user of a part imports


PLACES = {
    "tuning": Place(Path("pipeline/tuning/kinds"), Path("pipeline/tuning/kind.py")),
    "selector": Place(Path("pipeline/selection/selectors"), Path("pipeline/selection/selector.py")),
    "classifier": Place(Path("pipeline/classification/classifiers"), Path("pipeline/classification/classifier.py")),
}
_ROOT = Path(__file__).parents[1]


def names(parameter: str) -> list[str]:
    """The values that a parameter may have, in alphabetical order."""
    files = (_ROOT / PLACES[parameter].folder).glob("[a-z]*.py")
    return sorted(file.stem for file in files)


def check_name(parameter: str, name: str) -> None:
    """Raises UserError unless a part has this name."""
    if name not in (known := names(parameter)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
        raise UserError(f"params.yaml: {parameter} {name!r} is unknown: {hint}")


def find_module(parameter: str, name: str) -> ModuleType:
    """The module of a part. Raises UserError for an unknown name."""
    check_name(parameter, name)
    return importlib.import_module(".".join((*PLACES[parameter].folder.parts, name)))
