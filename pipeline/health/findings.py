"""What `python -m pipeline doctor` finds, and what `--repair` does about it."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """Something that was looked at."""

    ok: bool
    what: str
    remedy: str = ""  # what to do about it, where it is not ok
    remove: Path | None = None  # what --repair takes away
    intact: Path | None = None  # and what it puts there: a copy of this file


def repair(finding: Finding) -> str:
    """Remove the damaged file, or put an intact copy in its place. Returns a line that says what was done."""
    assert finding.remove
    if finding.intact is None:
        finding.remove.unlink(missing_ok=True)  # by now its writer may have
        return f"removed {finding.remove}: `dvc repro` makes it again if it is needed"
    beside = finding.remove.with_name(f".{finding.remove.name}.{os.getpid()}")
    shutil.copyfile(finding.intact, beside)
    shutil.copymode(finding.remove, beside)
    beside.replace(finding.remove)
    return f"restored {finding.remove} from {finding.intact}"
