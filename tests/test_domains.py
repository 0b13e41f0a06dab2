"""Data sets with domains: the glyphs in ten renditions, and folders of domains."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.bad_data import picture
from harness.parameters import set_params
from harness.stage_repository import refusal
from pipeline.data.datasets import fetch_dataset
from pipeline.data.sets.domain_folder import load_domain_folder
from pipeline.data.sets.glyph_images import DOMAIN_CHARACTERS, RENDITIONS, draw_glyph_domains
from pipeline.health import doctor


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


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN"])
@pytest.mark.parametrize(
    ("test", "notes"),
    [
        ("test", []),
        ("Test", []),
        ("val", ["{}: tested on val, since there is no folder test"]),
        ("Validation", ["{}: tested on Validation, since there is no folder test"]),
    ],
)
@pytest.mark.parametrize("is_shared", [False, True])
def test_splits_of_domains_may_be_spelled_as_those_of_classes(
    tmp_path: Path, train: str, test: str, notes: list[str], is_shared: bool
) -> None:
    in_test = [f"{test}/x", f"{test}/y"] if is_shared else [f"{test}/{d}/{c}" for d in ("a", "b") for c in ("x", "y")]
    folder(tmp_path, *(f"{train}/{d}/{c}" for d in ("a", "b") for c in ("x", "y")), *in_test)
    images = load_domain_folder(tmp_path)
    assert (images.domains, images.classes) == (["a", "b"], ["x", "y"])
    assert (len(images.train_labels), len(images.test_labels)) == (16, 8 if is_shared else 16)
    assert (images.test_domains is None) == is_shared
    assert list(images.notes) == [note.format(tmp_path) for note in notes]


def test_a_missing_split_is_not_read_as_domains(tmp_path: Path) -> None:
    folder(tmp_path / "one", "train/a/x", "train/b/x")
    folder(tmp_path / "other", "test/a/x", "test/b/x")
    assert "test has no folders of domains: expected DOMAIN/" in refusal(lambda: load_domain_folder(tmp_path / "one"))
    assert "has test/, but no train/: expected DOMAIN/" in refusal(lambda: load_domain_folder(tmp_path / "other"))


def test_splits_inside_domains_are_not_read_as_classes(tmp_path: Path) -> None:
    folder(tmp_path, *(f"{domain}/{split}/x" for domain in "ab" for split in ("Train", "test")))
    assert "a holds Train/, whose folders would be no classes: " in refusal(lambda: load_domain_folder(tmp_path))


def test_a_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    folder(tmp_path, *(f"{domain}/{name}" for domain in ("photo", "sketch") for name in ("train", "test", "ship")))
    assert load_domain_folder(tmp_path).classes == ["ship", "test", "train"]


def test_a_link_to_a_split_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "mine/train/a/x", "mine/test/a/x")
    (tmp_path / "mine/train").rename(tmp_path / "elsewhere")
    (tmp_path / "mine/train").symlink_to(tmp_path / "elsewhere")
    assert "train is a link to a folder" in refusal(lambda: load_domain_folder(tmp_path / "mine"))


@pytest.mark.parametrize("split", ["", "train/"])
def test_names_in_two_forms_of_unicode_are_one_domain(tmp_path: Path, split: str) -> None:
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    folder(tmp_path, *(f"{split}{domain}/{c}" for domain in forms for c in "xyz"))
    if split:
        folder(tmp_path, "test/x")
    images = load_domain_folder(tmp_path)
    assert images.domains == ["café"]
    assert images.classes == ["x", "y", "z"]
    of_test = 4 if split else 0
    assert len(images.train_labels) + len(images.test_labels) == 24 + of_test


@pytest.mark.usefixtures("tiny_repository")
def test_the_doctor_reads_a_folder_as_the_run_does() -> None:
    folder(Path("by domain"), "photo/cat", "photo/dog", "sketch/cat", "sketch/dog", "clipart/cat", count=6)
    folder(Path("by class"), "cat", "dog", count=6)
    found = {}
    for setting in ("domain", "class"):
        for data_dir in ("by domain", "by class"):
            set_params(Path("params.yaml"), dataset="image_folder", data_dir=data_dir, setting=setting)
            ((found[setting, data_dir]),) = doctor.check_images()
    assert found["domain", "by domain"].what.startswith("images: 3 domains, 2 classes, ")
    assert "by class/cat has no class folders: expected DOMAIN/CLASS/*" in found["domain", "by class"].what
    assert found["class", "by class"].what.startswith("images: 2 classes, ")


@pytest.mark.usefixtures("tiny_repository")
def test_a_folder_without_domains_is_named(tmp_path: Path) -> None:
    folder(Path("images"), "cat", "dog")
    message = refusal(lambda: fetch_dataset("image_folder", data_dir=Path("images"), scratch=tmp_path, domains=True))
    assert message.startswith(f"images{os.sep}cat has no class folders: expected DOMAIN/CLASS/*")
