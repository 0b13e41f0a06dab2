"""Splits a data set into training and test images as a published list does: two columns, file and side."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.image_set import ImageSet
from pipeline.data.lists import listed_file, read_lines
from pipeline.errors import UserError
from pipeline.store import artifacts

Name = tuple[str, ...]  # the last parts of a path
OWN = "own"  # the split of the data set itself
_FEWEST = 2  # parts of a path that a list and a data set must agree on: the last folder and the name
_LINE = re.compile(r"(?P<file>.+?)(?:\s*[,\t]\s*|\s+)(?P<side>train|test)$", re.IGNORECASE)


def resplit(images: ImageSet, name: str, *, domains: bool) -> ImageSet:
    """The data set with the split of this name. Raises UserError for a list that does not fit the data set.

    domains: whether tasks will be domains. If not, a data set whose test images are of no domain loses its domains.
    """
    if name == OWN:
        return images
    path = listed_file(artifacts.SPLITS, name, "split", (OWN,))
    if domains and images.test_domains is None:
        raise UserError(
            f"params.yaml: split: the test images of this data set are of no domain, so {path.name} cannot make them "
            f"training images: set split: {OWN}, or setting: class"
        )
    files = [*_files(images.train_images, path), *_files(images.test_images, path)]
    labels = torch.cat([images.train_labels, images.test_labels])
    found = _named(files)
    depth = max(len(name) for name in found)
    sides = _sides(path, depth)
    if unknown := ["/".join(name) for name in sides if name not in found]:
        like = f"; it has {'/'.join(next(iter(found)))}" if depth > _FEWEST else ""
        raise UserError(
            f"{path}: the data set has no image {unknown[0]} ({len(unknown)} of {len(sides)} are unknown){like}"
        )
    train, test = (
        torch.tensor([index for name, index in found.items() if sides.get(name) == side], dtype=torch.int64)
        for side in ("train", "test")
    )
    left_out = len(files) - len(sides)
    notes = [f"{path}: left out {left_out} images that it does not name"] if left_out else []
    of_sides = images.train_domains, images.test_domains
    of_domains = None if of_sides[0] is None or of_sides[1] is None else torch.cat([of_sides[0], of_sides[1]])
    return replace(
        images,
        train_images=[files[index] for index in train.tolist()],
        train_labels=labels[train],
        test_images=[files[index] for index in test.tolist()],
        test_labels=labels[test],
        notes=[*images.notes, *notes],
        domains=() if of_domains is None else images.domains,
        train_domains=None if of_domains is None else of_domains[train],
        test_domains=None if of_domains is None else of_domains[test],
    )


def _files(images: Tensor | Sequence[Path], path: Path) -> list[Path]:
    if isinstance(images, Tensor):
        raise UserError(f"params.yaml: split: {path.name} names files, and this data set has none: set split: {OWN}")
    return list(images)


def _named(files: Sequence[Path]) -> dict[Name, int]:
    """The index of each file by its last folder and name, or by as many folders more as tell all files apart."""
    whole, times = Counter(_name(str(file), 0) for file in files).most_common(1)[0]
    if times > 1:
        raise UserError(f"params.yaml: split: the data set uses {'/'.join(whole)} twice: set split: {OWN}")
    depth = _FEWEST
    while len(found := {_name(str(file), depth): index for index, file in enumerate(files)}) < len(files):
        depth += 1
    return found


def _name(file: str, depth: int) -> Name:
    """The last parts of a path; all of them if depth is 0."""
    return tuple(file.replace("\\", "/").split("/")[-depth:])


def _sides(path: Path, depth: int) -> dict[Name, str]:
    sides: dict[Name, str] = {}
    for line in read_lines(path):
        match = _LINE.match(line)
        if not match:
            raise UserError(f"{path}: {line!r} is not a file and train or test: see lists/README.md")
        name = _name(match["file"].strip("\"'"), depth)
        if name in sides:
            raise UserError(f"{path}: {'/'.join(name)} comes twice")
        sides[name] = match["side"].lower()
    return sides
