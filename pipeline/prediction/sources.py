"""The pictures that a command line names: files, folders and patterns, one by one."""

import glob
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline.data.image_listing import walk_images
from pipeline.errors import UserError


def pictures(named: Iterable[Path], leave_out: Callable[[Path], None]) -> Iterator[Path]:
    """Files as they are named, images below folders, and what patterns match (`**` reaches folders inside).

    leave_out: gets the files of folders that are not images. Raises UserError for a pattern that matches nothing and
    for a folder that cannot be read.
    """
    for path in named:
        if not path.exists() and glob.has_magic(str(path)):
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  (pathlib: no absolute patterns)
            if not matches:
                raise UserError(f"{path} matches no file: check the pattern")
            for match in matches:
                yield from _below(Path(match), leave_out)
        else:
            yield from _below(path, leave_out)


def _below(path: Path, leave_out: Callable[[Path], None]) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    try:
        yield from walk_images(path, leave_out)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or error}: grant access") from None
