"""Layouts of image folders: which files count, which classes they make, and the notes on all other files."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from harness.stage_repository import refusal
from pipeline.data.image_set import ImageSet
from pipeline.data.sets.image_folder import load_image_folder


def write(folder: Path, *names: str) -> None:
    for name in names or ("0.png", "1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        kind = Image.registered_extensions().get(Path(name).suffix.lower(), "PNG")
        Image.new("RGB", (8, 8), "red").save(folder / name, kind)


def listed(images: ImageSet) -> Counter[str]:
    """The number of images of each class."""
    labels = [*images.train_labels.tolist(), *images.test_labels.tolist()]
    return Counter(images.classes[label] for label in labels)


def names(images: Tensor | object) -> list[str]:
    assert isinstance(images, list)
    return [path.name for path in images]


def test_every_ending_of_pillow_counts_in_any_case_and_no_ending_too(tmp_path: Path) -> None:
    write(tmp_path / "dog")
    written = ["a.png", "b.JFIF", "c.avif", "d.jp2", "e.Jpe", "f.TIF", "g.webp", "h.tga", "i.pcx", "j.ico", "no ending"]
    write(tmp_path / "cat", *written)
    images = load_image_folder(tmp_path)
    assert listed(images) == {"cat": len(written), "dog": 2}
    assert images.notes == []


def test_what_is_left_out_is_said_by_ending_and_count(tmp_path: Path) -> None:
    write(tmp_path / "cat")
    write(tmp_path / "dog")
    write(tmp_path, "loose.png")
    for name in ("a.HEIC", "b.heic", "c.txt", "d", "e.psd", "Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    (tmp_path / "cat/empty").write_bytes(b"")
    (tmp_path / "__MACOSX/cat").mkdir(parents=True)
    (tmp_path / "bird").symlink_to("nowhere")
    images = load_image_folder(tmp_path)
    assert listed(images) == {"cat": 2, "dog": 2}
    left_out, loose, links = images.notes
    assert left_out.startswith(f"{tmp_path}: left out 6 files that Pillow does not read as images: ")
    for part in ("2 .heic", "1 .txt", "2 without ending", "1 .psd", "for HEIC, `pip install pillow-heif`"):
        assert part in left_out
    assert "left out 1 images outside class folders" in loose
    assert "left out bird: links to nothing" in links


def test_folders_inside_a_class_folder_count_as_its_own(tmp_path: Path) -> None:
    write(tmp_path / "cat", "0.png", "session 2/0.png", "session 2/deep/1.png", ".hidden/2.png", "odd.png/3.png")
    write(tmp_path / "dog")
    images = load_image_folder(tmp_path)
    assert listed(images) == {"cat": 4, "dog": 2}
    (note,) = images.notes
    assert "3 images lie in folders inside" in note
    assert "cat/odd.png, cat/session 2, cat/session 2/deep" in note


@pytest.mark.parametrize("inside", [["cat/0.png", "dog/0.png"], ["train/cat/0.png", "test/cat/0.png"]])
def test_a_folder_around_the_classes_is_refused_by_name(tmp_path: Path, inside: list[str]) -> None:
    write(tmp_path / "pets", *inside)
    message = refusal(lambda: load_image_folder(tmp_path))
    assert f"set data_dir: {tmp_path}/pets;" in message


def test_a_class_alone_that_holds_images_is_no_such_folder(tmp_path: Path) -> None:
    write(tmp_path / "cat", "0.png", "1.png", "more/2.png")
    assert listed(load_image_folder(tmp_path)) == {"cat": 3}


@pytest.mark.parametrize("called", ["train", "Train", "test", "val"])
def test_a_class_may_be_called_as_a_split(tmp_path: Path, called: str) -> None:
    for name in ("bicycle", "bus", "car", called):
        write(tmp_path / name)
    assert listed(load_image_folder(tmp_path)) == dict.fromkeys(("bicycle", "bus", "car", called), 2)


def test_two_classes_may_be_called_as_both_splits(tmp_path: Path) -> None:
    for name in ("train", "test", "car"):
        write(tmp_path / name)
    assert load_image_folder(tmp_path).classes == ["car", "test", "train"]


@pytest.mark.parametrize(
    ("train", "test", "note"),
    [
        ("train", "test", None),
        ("Train", "TEST", None),
        ("train", "val", "tested on val, since there is no folder test"),
        ("TRAIN", "Valid", "tested on Valid, since there is no folder test"),
    ],
)
def test_splits_in_any_case(tmp_path: Path, train: str, test: str, note: str | None) -> None:
    write(tmp_path / train / "cat", "0.png", "1.png", "2.png")
    write(tmp_path / test / "cat", "3.png")
    images = load_image_folder(tmp_path)
    assert names(images.train_images) == ["0.png", "1.png", "2.png"]
    assert names(images.test_images) == ["3.png"]
    assert [said.partition(": ")[2] for said in images.notes] == ([note] if note else [])


def test_what_stands_beside_the_splits_is_said(tmp_path: Path) -> None:
    for name in ("train/cat", "test/cat", "val/cat", "raw"):
        write(tmp_path / name)
    write(tmp_path / "train", "loose.png")
    images = load_image_folder(tmp_path)
    assert listed(images) == {"cat": 4}
    assert "left out 1 images outside class folders" in images.notes[0]
    assert "left out raw, val: no training or test images" in images.notes[1]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train"], "train has no class folders"),
        (["train", "test"], "train has no class folders"),
        (["train/cat"], "test has no class folders"),
        (["train/cat", "raw"], "test has no class folders"),
        (["train/cat", "test"], "test has no class folders"),
        (["test/cat", "val/cat"], "has test/, but no train/"),
    ],
)
def test_half_of_a_split_is_refused_by_name(tmp_path: Path, folders: list[str], message: str) -> None:
    for name in folders:
        write(tmp_path / name)
    assert message in refusal(lambda: load_image_folder(tmp_path))


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "épée") for form in ("NFC", "NFD"))
    for folder in (f"train/{composed}", f"test/{decomposed}", "train/cat", "test/cat"):
        write(tmp_path / folder)
    assert listed(load_image_folder(tmp_path)) == {"cat": 4, composed: 4}
    write(tmp_path / "train" / decomposed, "2.png")
    assert listed(load_image_folder(tmp_path)) == {"cat": 4, composed: 5}


@pytest.mark.parametrize("link", ["cat", "dog/more", "dog/deep/more"])
def test_a_link_to_a_folder_is_refused_by_name(tmp_path: Path, link: str) -> None:
    write(tmp_path / "store")
    write(tmp_path / "images/dog", "0.png", "1.png", "deep/2.png")
    (tmp_path / "images" / link).symlink_to(tmp_path / "store")
    message = refusal(lambda: load_image_folder(tmp_path / "images"))
    assert message.startswith(f"{tmp_path}/images/{link} is a link to a folder")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_is_a_link_is_refused_by_name(tmp_path: Path, split: str) -> None:
    write(tmp_path / "store/cat")
    for name in {"train", "test"} - {split}:
        write(tmp_path / "images" / name / "cat")
    (tmp_path / "images" / split).symlink_to(tmp_path / "store")
    assert f"images/{split} is a link to a folder" in refusal(lambda: load_image_folder(tmp_path / "images"))


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    write(tmp_path / "cat")
    (tmp_path / "cat/self").symlink_to("self")
    assert "1 without ending" in load_image_folder(tmp_path).notes[0]
    (tmp_path / "cat/loop").symlink_to("..")
    assert "cat/loop is a link to a folder" in refusal(lambda: load_image_folder(tmp_path))


def test_links_to_files_and_a_data_dir_that_is_a_link_are_read(tmp_path: Path) -> None:
    write(tmp_path / "store/cat")
    write(tmp_path / "store/dog")
    (tmp_path / "store/dog/linked.png").symlink_to("../cat/0.png")
    (tmp_path / "images").symlink_to("store")
    assert listed(load_image_folder(tmp_path / "images")) == {"cat": 2, "dog": 3}
