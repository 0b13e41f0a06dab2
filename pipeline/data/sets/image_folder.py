"""A folder of images, one subfolder per class: the user's own data, and what most archives unpack to."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.held_out import fifth
from pipeline.data.image_listing import (
    class_name,
    describe_depth,
    describe_left_out,
    list_folders,
    list_images,
    no_link,
)
from pipeline.data.image_set import ImageSet
from pipeline.data.packing import content_numbers
from pipeline.errors import UserError, visible

SEED = 0  # the same data set for every `seed` of params.yaml, which only orders its classes

_TEST = ("test", "val", "valid", "validation")
_EXPECTED = "expected train/CLASS/* and test/CLASS/*, or CLASS/*, in data_dir"

Files = dict[str, list[Path]]  # class -> its images, both in alphabetical order


@dataclass(frozen=True)
class Found:
    """The classes of a folder, and notes for the user on how it was read."""

    files: Files
    notes: list[str]


def load_image_folder(folder: Path) -> ImageSet:
    """Load `train/CLASS/*` and `test/CLASS/*`; or `CLASS/*`, where about a fifth of each class is for testing.

    The bytes of each file alone decide whether it is for testing (data.held_out). Raises UserError if there are no
    class folders or a file cannot be read.
    """
    splits = find_splits(folder, _EXPECTED)
    if splits is None:
        found = find_classes(folder)
        _check_is_not_wrapped(folder, found.files)
        return image_set(*stratified_split(found.files), notes=found.notes)
    train, test = (find_classes(no_link(split)) for split in splits)
    return image_set(train.files, test.files, notes=[*train.notes, *test.notes, *describe_splits(folder, splits)])


def find_splits(folder: Path, expected: str) -> tuple[Path, Path] | None:
    """The folders of training and test images, in upper or lower case; None if the folders in `folder` are classes.

    A folder called `train` is an ordinary class if it contains images and has other folders beside it. Without a folder
    `test`, one for validation is used for testing. Raises UserError, which says what is expected, if there is no train.
    """
    folders = list_folders(folder)
    train = _called(folders, "train")
    tests = [path for name in _TEST for path in _called(folders, name)]
    ready = [path for path in tests if list_folders(path)]
    others = [path for path in folders if path not in (*train, *tests)]
    if not train:
        if tests and not others and not any(list_images(path, deep=False).images for path in tests):
            raise UserError(f"{folder} has {tests[0].name}/, but no train/: {expected}")
        return None
    holds_images = bool(list_images(train[0], deep=False).images)
    if others and holds_images and not (ready and list_folders(train[0])):
        return None
    return train[0], (ready or tests or [folder / "test"])[0]


def describe_splits(folder: Path, splits: tuple[Path, Path]) -> list[str]:
    """Lines on folders beside the two, and on a test folder of another name; empty if there are none."""
    others = [path.name for path in list_folders(folder) if path not in splits]
    notes = [f"{folder}: left out {', '.join(others)}: no training or test images"] if others else []
    if splits[1].name.casefold() != "test":
        notes.append(f"{folder}: tested on {splits[1].name}, since there is no folder test")
    return notes


def _called(folders: Sequence[Path], name: str) -> list[Path]:
    """The folders of a name in upper or lower case; the exact spelling first."""
    return sorted((path for path in folders if path.name.casefold() == name), key=lambda path: path.name != name)


def find_classes(folder: Path) -> Found:
    """The classes in a folder. Raises UserError if it has no folders."""
    folders = list_folders(folder)
    if not folders:
        raise UserError(f"{folder} has no class folders: {_EXPECTED}")
    listings = [(path, list_images(no_link(path))) for path in folders]
    files: Files = {}
    for path, listing in listings:
        files[class_name(path)] = sorted([*files.get(class_name(path), []), *listing.images])
    beside = list_images(folder, deep=False)
    notes = describe_left_out(folder, [path for _, listing in listings for path in listing.left_out])
    notes += describe_depth(folder, listings)
    if beside.images:
        notes.append(f"{folder}: left out {len(beside.images)} images outside class folders")
    if lost := [path.name for path in beside.left_out if path.is_symlink() and not path.exists()]:
        notes.append(f"{folder}: left out {', '.join(lost)}: links to nothing")
    return Found(files, notes)


def class_files(folder: Path) -> Files:
    """The images of each class folder. Raises UserError if there are no such folders."""
    return find_classes(folder).files


def _check_is_not_wrapped(folder: Path, files: Files) -> None:
    """Raises UserError if the class folders lie one level deeper, in a single folder, as many archives unpack."""
    folders = list_folders(folder)
    if len(folders) == 1 and any(files.values()):
        only, inside = folders[0], list_folders(folders[0])
        if inside and not list_images(only, deep=False).images:
            raise UserError(
                f"{folder} holds one folder, {only.name}, whose images lie in folders inside it, such as "
                f"{inside[0].name}: if these are the classes, set data_dir: {only}; if {only.name} is a class, move "
                "its images up into it"
            )


def stratified_split(files: Files) -> tuple[Files, Files]:
    """Split off about a fifth of the images of each class for testing: (rest, fifth).

    Raises UserError for a file that cannot be read.
    """
    rest, tests = {}, {}
    for name, paths in files.items():
        contents = content_numbers(paths).tolist()
        if len(paths) > len(set(contents)) == 1:
            print(f"class {visible(name)}: its {len(paths)} files are copies of one image, used in training and test")
        is_test = fifth(contents, SEED, "test split")
        rest[name] = [path for path, held_out in zip(paths, is_test, strict=True) if not held_out]
        tests[name] = [path for path, held_out in zip(paths, is_test, strict=True) if held_out]
    return rest, tests


def listing_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the files' names with their class folders. Equal splits have equal digests."""
    return hashlib.sha256(
        "\n".join("/".join(path.parts[-2:]) for path in paths).encode(errors="surrogateescape")
    ).hexdigest()


def image_set(
    train: Mapping[str, Sequence[Path]],
    test: Mapping[str, Sequence[Path]],
    *,
    notes: Sequence[str] = (),
    as_given: bool = False,
) -> ImageSet:
    """A data set of files, without groups. A class that only one split has is listed in both.

    as_given: the classes keep their order, which published numbers and orders mean; otherwise they come by name.
    """
    classes = list(dict.fromkeys([*train, *test])) if as_given else sorted(train.keys() | test.keys())

    def listed(split: Mapping[str, Sequence[Path]]) -> tuple[list[Path], Tensor]:
        of_class = [split.get(name, ()) for name in classes]
        labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in of_class]))
        return [path for paths in of_class for path in paths], labels

    (train_images, train_labels), (test_images, test_labels) = listed(train), listed(test)
    return ImageSet(classes, [""] * len(classes), train_images, train_labels, test_images, test_labels, notes)
