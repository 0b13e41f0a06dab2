"""Splits a data set into training and test images as a published list does: two columns, file and side."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.image_set import ImageSet
from pipeline.data.lists import listed_file, read_lines
from pipeline.errors import UserError
from pipeline.store import artifacts

OWN = "own"  # the split of the data set itself
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
    sides = _sides(path)
    found = {_key(str(file)): index for index, file in enumerate(files)}
    if len(found) < len(files):
        twice = next(file for index, file in enumerate(files) if found[_key(str(file))] != index)
        raise UserError(
            f"{path}: two images are called {_key(str(twice))}, so a list cannot tell them apart: rename one"
        )
    unknown = [key for key in sides if key not in found]
    if unknown:
        raise UserError(f"{path}: the data set has no image {unknown[0]} ({len(unknown)} of {len(sides)} are unknown)")
    train, test = (
        torch.tensor([index for key, index in found.items() if sides.get(key) == side], dtype=torch.int64)
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


def _key(file: str) -> str:
    """What a list and a data set agree on: the last folder and the name."""
    return "/".join(file.replace("\\", "/").split("/")[-2:])


def _sides(path: Path) -> dict[str, str]:
    sides: dict[str, str] = {}
    for line in read_lines(path):
        match = _LINE.match(line)
        if not match:
            raise UserError(f"{path}: {line!r} is not a file and train or test: see lists/README.md")
        key = _key(match["file"].strip("\"'"))
        if key in sides:
            raise UserError(f"{path}: {key} comes twice")
        sides[key] = match["side"].lower()
    return sides
