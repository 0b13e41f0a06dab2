"""Whether the code, parameters and data that a stage depends on stayed the same while it ran.

DVC records what a stage depends on only after its command has ended (treeverse/dvc#11058). So an edit in the meantime
would store the old result under the new values, as if it were up to date. Code must also be what the stage `code` saw
at the beginning of the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.data.system_files import is_of_system
from pipeline.errors import UserError
from pipeline.params import read_declared, read_values
from pipeline.runtime import code
from pipeline.store import artifacts

_ABSENT = object()
_SHOWN = 3  # files of a folder


@contextmanager
def unchanged(stage: str) -> Iterator[None]:
    """Raise UserError if anything that a stage depends on changed between the start of the process and the end.

    stage: DVC's name for it, as in its DVC_STAGE; "" for a process that is no stage, for which nothing is checked.
    """
    if not stage:
        yield
        return
    name = stage.rpartition(":")[2]  # of ../dvc.yaml:split, where DVC was called from a subfolder
    if edited := _edited(name, code.AT_START or code.read_sources()):
        raise UserError(f"{', '.join(edited)} changed since this run began: `dvc repro` starts again")
    declared = read_declared(name)
    before = {what: _state(file) for what, file in declared.files.items()}
    yield
    params = read_values(declared.params)
    changed = [f"{what} in params.yaml" for what, value in declared.params.items() if params[what] != value]
    for what, file in declared.files.items():
        changed += _differences(what, before[what], _state(file))
    changed += _edited(name, code.read_sources())
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while {name} ran, so its result is not kept: `dvc repro` runs it again"
        )


def _edited(name: str, sources: code.Sources) -> list[str]:
    """Modules of a stage that differ from the list of the stage `code`, also because they import more."""
    stage = name.partition("@")[0]
    listed = {} if stage in ("method", "code") else artifacts.load_json(artifacts.code_file(stage))
    return [module for module, digest in listed.items() if code.digest(sources.get(Path(module), b"")) != digest]


def _differences(what: str, before: object, after: object) -> list[str]:
    """What changed in a dependency: the file itself, or files in a folder, by name."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [what] if before != after else []
    names = sorted(name for name in before | after if before.get(name, _ABSENT) != after.get(name, _ABSENT))
    more = [f"{len(names) - _SHOWN} more in {what}"] if len(names) > _SHOWN else []
    return [f"{what.rstrip('/')}/{name}" for name in names[:_SHOWN]] + more


def _is_unread(name: str) -> bool:
    """Whether no stage reads a file in a folder: compiled code, and what file browsers and other systems put there."""
    return name.endswith(".pyc") or any(is_of_system(part) for part in name.split("/"))


def _state(file: Path) -> object:
    """What tells one version of a file or folder from the next: its size and time."""
    if not file.exists():
        return None
    if file.is_dir():
        found = ((inner.relative_to(file).as_posix(), inner) for inner in file.rglob("*"))
        return {name: _state(inner) for name, inner in found if not inner.is_dir() and not _is_unread(name)}
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
