"""Checks where a folder of images lies: DVC must notice changes in it, and the pipeline must not overwrite it."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params import PIPELINE_FILE, read_mapping


def check_apart_from_outputs(folder: Path) -> None:
    """Raises UserError if the folder lies inside an output of a stage or contains one: DVC empties outputs."""
    here = folder.resolve()
    for stage in read_mapping(PIPELINE_FILE)["stages"].values():
        for entry in stage.get("do", stage).get("outs", []):
            name = entry if isinstance(entry, str) else next(iter(entry))
            out = Path(name.partition("$")[0]).resolve()
            if out.is_relative_to(here) or (here.is_relative_to(out) and "$" not in name):
                raise UserError(
                    f"data_dir {folder}: the pipeline writes {name}, and may empty it: move your images elsewhere"
                )


def check_noticed(folder: Path, read: Sequence[Path]) -> None:
    """Raises UserError if DVC ignores a file that was read in the folder, and names the file and the rule."""
    root = next((path for path in (Path.cwd(), *Path.cwd().parents) if (path / ".dvc").is_dir()), None)
    if root is None or not find_spec("dvc"):
        return  # without DVC nobody looks for changes
    from dvc.fs import localfs  # noqa: PLC0415  (takes half a second; other data sets do not need it)
    from dvc.ignore import DvcIgnoreFilter  # noqa: PLC0415

    ignore = DvcIgnoreFilter(localfs, str(root))
    seen = set(ignore.find(localfs, os.path.normpath(folder.absolute())))
    unseen = next((path for path in read if os.path.normpath(path.absolute()) not in seen), None)
    if unseen is None:
        return
    upward = [unseen, *unseen.parents]
    ignored = next(path for path in reversed(upward) if ignore.check_ignore(str(path)).match)
    rules = ", ".join(rule.file_info or rule.patterns for rule in ignore.check_ignore(str(ignored)).pattern_infos)
    raise UserError(
        f"{ignored} is ignored by DVC ({rules}), so changed or new images in it would go unnoticed: move or rename "
        "it, or change that rule"
    )
