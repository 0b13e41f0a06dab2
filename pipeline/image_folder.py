"""A folder of images, one subfolder a class: the user's own data, and what most archives unpack to."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError, visible
from pipeline.held_out import fifth
from pipeline.image_files import SUFFIXES
from pipeline.image_set import ImageSet
from pipeline.packing import content_numbers

SEED = 0  # a data set is the same for every `seed` of params.yaml, which orders its classes

Files = dict[str, list[Path]]  # class -> its images, both in alphabetical order


def load_image_folder(folder: Path) -> ImageSet:
    """`train/CLASS/*` and `test/CLASS/*`; or `CLASS/*`, of which about a fifth of each class is for testing.

    Which images these are depends on the bytes of each file alone (pipeline.held_out). Raises UserError where there are
    no class folders, or a file cannot be read.
    """
    if (folder / "train").is_dir():
        return image_set(class_files(folder / "train"), class_files(folder / "test"))
    return image_set(*stratified_split(class_files(folder)))


def class_files(folder: Path) -> Files:
    """The images in each subfolder; other files are ignored. Raises UserError where there are no subfolders."""
    classes = (
        sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".") if folder.is_dir() else []
    )
    if not classes:
        raise UserError(
            f"{folder} has no class folders: expected train/CLASS/* and test/CLASS/*, or CLASS/*, in data_dir"
        )
    for path in classes:
        if path.name.encode(errors="replace").decode() != path.name:
            raise UserError(f"{path}: the name of this class is not UTF-8: rename the folder")
    return {
        c.name: sorted(p for p in c.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".") for c in classes
    }


def stratified_split(files: Files) -> tuple[Files, Files]:
    """About a fifth of the images of each class, for testing, apart from the rest: (rest, fifth).

    Raises UserError for a file that cannot be read.
    """
    rest, tests = {}, {}
    for name, paths in files.items():
        contents = content_numbers(paths).tolist()
        if len(paths) > len(set(contents)) == 1:
            print(f"class {visible(name)}: its {len(paths)} files are one image, for training and for testing")
        is_test = fifth(contents, SEED, "test split")
        rest[name] = [path for path, held_out in zip(paths, is_test, strict=True) if not held_out]
        tests[name] = [path for path, held_out in zip(paths, is_test, strict=True) if held_out]
    return rest, tests


def listing_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the files' names with their class folders: two splits are the same if these are."""
    return hashlib.sha256(
        "\n".join("/".join(path.parts[-2:]) for path in paths).encode(errors="surrogateescape")
    ).hexdigest()


def image_set(train: Mapping[str, Sequence[Path]], test: Mapping[str, Sequence[Path]]) -> ImageSet:
    """A data set of files, without groups; a class that only one split has is in both, without images."""
    classes = sorted(train.keys() | test.keys())

    def listed(split: Mapping[str, Sequence[Path]]) -> tuple[list[Path], Tensor]:
        of_class = [split.get(name, ()) for name in classes]
        labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in of_class]))
        return [path for paths in of_class for path in paths], labels

    (train_images, train_labels), (test_images, test_labels) = listed(train), listed(test)
    return ImageSet(classes, [""] * len(classes), train_images, train_labels, test_images, test_labels)
