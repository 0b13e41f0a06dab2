"""Folders of images: both layouts, what is ignored, what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.data.sets.image_folder import listing_digest, load_image_folder
from pipeline.errors import UserError


def write(folder: Path, count: int, names: str = "{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (8, 8)).save(folder / names.format(index))


def test_train_and_test_folders(tmp_path: Path) -> None:
    for split, cats, dogs in (("train", 3, 2), ("test", 1, 2)):
        write(tmp_path / split / "dog", dogs)
        write(tmp_path / split / "cat", cats, "{}.JPG")
    (tmp_path / "train/cat/Thumbs.db").write_bytes(b"no image")
    (tmp_path / "train/.hidden").mkdir()
    images = load_image_folder(tmp_path)
    assert images.classes == ["cat", "dog"]
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert images.test_labels.tolist() == [0, 1, 1]
    assert images.train_images == [tmp_path / f"train/cat/{i}.JPG" for i in range(3)] + [
        tmp_path / f"train/dog/{i}.png" for i in range(2)
    ]


def test_one_folder_is_split_stratified_and_always_alike(tmp_path: Path) -> None:
    for name, count in (("a", 10), ("b", 2), ("c", 31)):
        write(tmp_path / name, count)
    images, again = load_image_folder(tmp_path), load_image_folder(tmp_path)
    assert not isinstance(images.test_images, torch.Tensor)
    assert not isinstance(images.train_images, torch.Tensor)
    assert images.test_labels.bincount().tolist() == [2, 1, 6]
    assert images.train_labels.bincount().tolist() == [8, 1, 25]
    assert not set(images.train_images) & set(images.test_images)
    assert images.test_images == again.test_images
    assert listing_digest(images.test_images) == listing_digest([Path(*p.parts[-3:]) for p in images.test_images])
    assert listing_digest(images.test_images) != listing_digest(images.train_images)
    write(tmp_path / "d", 5)  # another class leaves the split of these as it was
    more = load_image_folder(tmp_path)
    assert list(more.test_images)[:9] == list(images.test_images)


def test_a_class_of_one_split_is_kept_so_that_it_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / "train/a", 2)
    write(tmp_path / "train/b", 2)
    write(tmp_path / "test/b", 2)
    images = load_image_folder(tmp_path)
    assert images.classes == ["a", "b"]
    assert images.test_labels.tolist() == [1, 1]


@pytest.mark.parametrize("content", ["", "train", "train/a"])
def test_a_folder_without_classes_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "data" / content).mkdir(parents=True)
    with pytest.raises(UserError, match=r"data.* has no class folders: expected train/CLASS"):
        load_image_folder(tmp_path / "data")
