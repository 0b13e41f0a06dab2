"""Lists the images below a folder, and reports all other files except those that no user put there."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.image_files import HEIF_REMEDY, HEIF_SUFFIXES, formats, is_image
from pipeline.data.system_files import is_of_system
from pipeline.errors import UserError

# A file with one of these endings counts as an image, and is refused if it cannot be read. A file with another ending
# that Pillow knows, or with none, counts as an image if its first bytes say so.
_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_SHOWN = 8  # endings or folders that a note lists
AGAIN = "`dvc repro -f download`"  # DVC does not notice newly installed packages


@dataclass(frozen=True)
class Listing:
    """The files of a folder, in alphabetical order."""

    images: list[Path]
    left_out: list[Path]


def list_folders(folder: Path) -> list[Path]:
    """The folders and links to folders in a folder, in alphabetical order; none if it is not a folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.is_dir() and not is_of_system(path.name))


def list_images(folder: Path, *, deep: bool = True) -> Listing:
    """The images in a folder; if `deep`, also those in folders inside. Raises UserError for a link to a folder."""
    images: list[Path] = []
    left_out: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = (
            sorted(no_link(Path(here, name)).name for name in folders if not is_of_system(name)) if deep else []
        )
        for path in (Path(here, name) for name in files if not is_of_system(name)):
            (images if _counts_as_image(path) else left_out).append(path)
    return Listing(sorted(images), sorted(left_out))


def walk_images(folder: Path, leave_out: Callable[[Path], None]) -> Iterator[Path]:
    """The images in a folder and its subfolders, one by one in alphabetical order. Any number takes little memory.

    leave_out: gets every other file, and every link to a folder, which is not followed.
    """
    for here, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not is_of_system(name))
        for path in (Path(here, name) for name in folders if Path(here, name).is_symlink()):
            leave_out(path)
        for path in (Path(here, name) for name in sorted(files) if not is_of_system(name)):
            if _counts_as_image(path):
                yield path
            else:
                leave_out(path)


def _raise(error: OSError) -> None:
    raise error


def _counts_as_image(path: Path) -> bool:
    ending = path.suffix.lower()
    return ending in _SUFFIXES or ((not ending or ending in formats()) and path.is_file() and is_image(path))


def describe_left_out(folder: Path, paths: Iterable[Path]) -> list[str]:
    """A line that counts the files that are not images, by ending; empty if there are none."""
    counts = Counter(path.suffix.lower() or "without ending" for path in paths)
    if not counts:
        return []
    shown = [f"{count} {ending}" for ending, count in counts.most_common(_SHOWN)]
    more = ", ..." if len(counts) > _SHOWN else ""
    install = f"; for HEIC, {HEIF_REMEDY}, then {AGAIN}" if HEIF_SUFFIXES & counts.keys() else ""
    return [
        f"{folder}: left out {counts.total()} files that Pillow does not read as images: "
        f"{', '.join(shown)}{more}{install}"
    ]


def describe_depth(folder: Path, classes: Iterable[tuple[Path, Listing]]) -> list[str]:
    """A line on images in folders inside class folders; empty if there are none."""
    deep = [path.parent for of, listing in classes for path in listing.images if path.parent != of]
    if not deep:
        return []
    inside = sorted({str(path.relative_to(folder)) for path in deep})
    more = ", ..." if len(inside) > _SHOWN else ""
    return [
        f"{folder}: {len(deep)} images lie in folders inside class folders and count as images of those classes: "
        f"{', '.join(inside[:_SHOWN])}{more}"
    ]


def class_name(folder: Path) -> str:
    """The name of the class in a folder: the folder's name in composed Unicode, as archives from macOS decompose names.

    Raises UserError for a name that is not UTF-8.
    """
    if folder.name.encode(errors="replace").decode() != folder.name:
        raise UserError(f"{folder}: the name of this class is not UTF-8: rename the folder")
    return unicodedata.normalize("NFC", folder.name)


def no_link(folder: Path) -> Path:
    """The folder. Raises UserError if it is a link: DVC does not follow links."""
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link to a folder, and DVC would not notice changes in it: put the folder itself there, or "
            "a folder of links to its files (remove the link, then `cp -rs ORIGINAL LINK`)"
        )
    return folder
