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

_STAGE = os.environ.get("DVC_STAGE", "").rpartition(":")[2]  # ../dvc.yaml:split, where DVC was called from a subfolder
_CODE = [file for folder in ("pipeline", "stages") for file in (CODE_ROOT / folder).glob("*.py")] if _STAGE else []
_IMPORTED = {file: file.read_bytes() for file in _CODE}


@contextmanager
def unchanged() -> Iterator[None]:
    """Raise UserError if anything changed between the start of the process, a stage that DVC runs, and the end."""
    if not _STAGE:
        yield
        return
    declared = read_declared(_STAGE)
    before = {name: _IMPORTED.get(file) or _state(file) for name, file in declared.files.items()}
    yield
    params = read_values(declared.params)
    changed = [f"{name} in params.yaml" for name, value in declared.params.items() if params[name] != value]
    changed += [name for name, file in declared.files.items() if _state(file) != before[name]]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while {_STAGE} ran, so its result is not kept: `dvc repro` runs it again"
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
