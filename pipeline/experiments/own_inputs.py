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

from pipeline.data.system_files import is_of_system
from pipeline.health.storage import md5_of
from pipeline.runtime.git import git
from pipeline.store import artifacts

_NAMES = ("data_dir", "backbone_weights")
_LISTS = {"class_order": artifacts.ORDERS, "split": artifacts.SPLITS}  # values that name a file of a folder


Named = tuple[tuple[str, Path], ...]  # parameter, path


class OwnInputs(NamedTuple):
    """The files that parameters name."""

    digest: str  # of the content
    elsewhere: dict[str, str]  # parameters whose path is not valid in a copy of the repository -> a path that is


def named_inputs(params: Mapping[str, Any]) -> Named:
    """Which files and folders of the user these parameters name and use."""
    used = [(name, Path(str(params[name]))) for name in _NAMES if params.get(name)]
    if params.get("dataset") != "image_folder":
        used = [(name, path) for name, path in used if name != "data_dir"]
    lists = [(name, folder / str(params.get(name))) for name, folder in _LISTS.items()]
    return (*used, *((name, path) for name, path in lists if path.is_file()))


def read_inputs(named: Named) -> OwnInputs:
    """The content of these files. All of them are read."""
    listed = {name: _files(path) for name, path in named}
    content = md5_of(file for files in listed.values() for file in files)
    known = sorted((file.as_posix(), digest) for file, digest in content.items())
    return OwnInputs(
        digest=hashlib.sha256(repr(known).encode()).hexdigest(),
        elsewhere={
            name: str(path.resolve())
            for name, path in named
            if name in _NAMES and listed[name] and not _is_copied(path)
        },
    )


def _files(path: Path) -> list[Path]:
    """The files of a folder, at any depth, or the file itself; none if the path does not exist. Those that no stage
    reads are left out: opening a folder in a file browser must not rename every experiment.
    """
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not is_of_system(name)]
        found += [Path(folder, name) for name in names if not is_of_system(name)]
    return sorted(found)


def _is_copied(path: Path) -> bool:
    """Whether a copy of the repository has everything at this path, under the same path."""
    if path.is_absolute():
        return True
    if not path.resolve().is_relative_to(git("rev-parse", "--show-toplevel").strip()):
        return False
    by_dvc = [f"{folder}.dvc" for folder in (path, *path.parents) if folder.name]
    ls_files = ("--literal-pathspecs", "ls-files", "-z")
    untracked = git(*ls_files, "--others", "--directory", "--", str(path)).split("\0")
    return bool(git(*ls_files, "--", *by_dvc)) or all(is_of_system(Path(name).name) for name in untracked if name)
