"""Whether the code, parameters and data that a stage depends on stayed the same while it ran.

DVC records what a stage depends on after its command has ended (treeverse/dvc#11058): an edit meanwhile would file the
old result under the new values, as up to date. Code is remembered when this module is imported, before any other.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params import CODE_ROOT, read_declared, read_values

_CODE = [file for folder in ("pipeline", "stages") for file in (CODE_ROOT / folder).glob("*.py")]
_IMPORTED = {file: file.read_bytes() for file in _CODE if "DVC_STAGE" in os.environ}


@contextmanager
def unchanged(stage: str) -> Iterator[None]:
    """Raise UserError if anything that a stage depends on changed between the start of the process and the end.

    stage: DVC's name for it, as in its DVC_STAGE; "" stands for a process that is none, of which nothing is asked.
    """
    if not stage:
        yield
        return
    name = stage.rpartition(":")[2]  # of ../dvc.yaml:split, where DVC was called from a subfolder
    declared = read_declared(name)
    before = {what: _IMPORTED.get(file) or _state(file) for what, file in declared.files.items()}
    yield
    params = read_values(declared.params)
    changed = [f"{what} in params.yaml" for what, value in declared.params.items() if params[what] != value]
    changed += [what for what, file in declared.files.items() if _state(file) != before[what]]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while {name} ran, so its result is not kept: `dvc repro` runs it again"
        )


def _state(file: Path) -> object:
    """What tells one version of a file or folder from the next: the bytes of code; of data its size and time."""
    if not file.exists():
        return None
    if file.suffix == ".py":
        return file.read_bytes()
    if file.is_dir():
        return {inner: _state(inner) for inner in file.rglob("*") if not inner.is_dir()}
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
