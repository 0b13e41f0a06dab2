"""The user's own files that parameters name: their digest, and their absolute paths for experiments.

DVC's queue runs experiments in copies of the repository, which contain only what git or DVC tracks. There, untracked
pictures and weights are named by their absolute paths. These files may also change while all parameters stay the same:
a digest of their content tells such experiments apart.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.health.storage import md5_of
from pipeline.runtime.git import git
from pipeline.store import artifacts

_NAMES = ("data_dir", "backbone_weights")
_LISTS = {"class_order": artifacts.ORDERS, "split": artifacts.SPLITS}  # values that name a file of a folder


class OwnInputs(NamedTuple):
    """The files that parameters name."""

    digest: str  # of the content
    elsewhere: dict[str, str]  # parameters whose path is not valid in a copy of the repository -> a path that is


def own_inputs(params: Mapping[str, Any]) -> OwnInputs:
    """The user's files that these parameters name and use."""
    used = {name: Path(str(params[name])) for name in _NAMES if params.get(name)}
    if params.get("dataset") != "image_folder":
        used.pop("data_dir", None)
    listed = {name: _files(path) for name, path in used.items()}
    lists = [folder / str(params.get(name)) for name, folder in _LISTS.items()]
    content = md5_of([*(file for files in listed.values() for file in files), *filter(Path.is_file, lists)])
    known = sorted((file.as_posix(), digest) for file, digest in content.items())
    return OwnInputs(
        digest=hashlib.sha256(repr(known).encode()).hexdigest(),
        elsewhere={name: str(path.resolve()) for name, path in used.items() if listed[name] and not _is_copied(path)},
    )


def _files(path: Path) -> list[Path]:
    """The files of a folder, at any depth, or the file itself; none if the path does not exist."""
    if path.is_file():
        return [path]
    return sorted(Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names)


def _is_copied(path: Path) -> bool:
    """Whether a copy of the repository has everything at this path, under the same path."""
    if path.is_absolute():
        return True
    if not path.resolve().is_relative_to(git("rev-parse", "--show-toplevel").strip()):
        return False
    by_dvc = [f"{folder}.dvc" for folder in (path, *path.parents) if folder.name]
    ls_files = ("--literal-pathspecs", "ls-files")
    return bool(git(*ls_files, "--", *by_dvc)) or not git(*ls_files, "--others", "--directory", "--", str(path))
