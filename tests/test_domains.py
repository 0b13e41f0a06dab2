"""Data sets with domains: the glyphs in ten renditions, and folders of domains."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.bad_data import picture
from harness.stage_repository import refusal
from pipeline.data.datasets import fetch_dataset
from pipeline.data.sets.glyph_images import DOMAIN_CHARACTERS, RENDITIONS, draw_glyph_domains


def test_the_glyphs_of_the_domain_form_are_the_same_characters_in_every_rendition() -> None:
    images = draw_glyph_domains()
    assert images.classes == DOMAIN_CHARACTERS
    assert len(set(DOMAIN_CHARACTERS)) == 10
    assert images.domains == [rendition.__name__ for rendition in RENDITIONS]
    assert images.train_domains is not None
    cells = images.train_domains * 10 + images.train_labels
    assert cells.bincount().tolist() == [40] * 100
    again = draw_glyph_domains()
    assert isinstance(images.train_images, Tensor)
    assert isinstance(again.train_images, Tensor)
    assert torch.equal(images.train_images, again.train_images)


def folder(root: Path, *names: str, count: int = 4) -> None:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(picture(10 * number + index + 100 * len(name)))


Make = Callable[[Path], None]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("make", "train", "test"),
    [
        (lambda root: folder(root, "photo/cat", "photo/dog", "sketch/cat", "sketch/dog"), 12, 4),
        (
            lambda root: folder(
                root, *(f"{s}/{d}/{c}" for s in ("train", "test") for d in ("a", "b") for c in ("x", "y"))
            ),
            16,
            16,
        ),
        (lambda root: folder(root, "photo/cat", "photo/dog", "sketch/cat"), 9, 3),
        (
            lambda root: folder(root, *(f"train/{d}/{c}" for d in ("a", "b") for c in ("x", "y")), "test/x", "test/y"),
            16,
            8,
        ),
    ],
)
def test_domains_from_folders(make: Make, train: int, test: int, tmp_path: Path) -> None:
    make(Path("images"))
    images = fetch_dataset("image_folder", data_dir=Path("images"), scratch=tmp_path, domains=True)
    assert len(images.domains) == 2
    assert len(images.classes) == 2
    assert (len(images.train_labels), len(images.test_labels)) == (train, test)
    assert (images.test_domains is None) == Path("images/test/x").exists()
    assert images.train_domains is not None
    for path, label, domain in zip(images.train_images, images.train_labels, images.train_domains, strict=True):
        assert path.parts[-3:-1] == (images.domains[int(domain)], images.classes[int(label)])


@pytest.mark.usefixtures("tiny_repository")
def test_a_folder_without_domains_is_named(tmp_path: Path) -> None:
    folder(Path("images"), "cat", "dog")
    message = refusal(lambda: fetch_dataset("image_folder", data_dir=Path("images"), scratch=tmp_path, domains=True))
    assert message.startswith(f"images{os.sep}cat has no class folders: expected DOMAIN/CLASS/*")
