"""Images held out for testing and validation: about a fifth, and no image changes sides without need."""

from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.tiny import random_images
from pipeline.data.held_out import SHARE, fifth, hold_out
from pipeline.data.packing import content_numbers
from pipeline.data.sets.image_folder import Files, stratified_split
from pipeline.seeds import rank

contents = st.integers(0, 2**63 - 1)
PURPOSE = "test split"


def held_out(images: list[int], seed: int = 0) -> set[int]:
    return {image for image, is_out in zip(images, fifth(images, seed, PURPOSE), strict=True) if is_out}


def decided_alone(image: int) -> bool:
    return rank(0, PURPOSE, image) < SHARE


@given(st.lists(contents, min_size=2, max_size=40, unique=True), st.integers(0, 99))
def test_no_side_is_empty(images: list[int], seed: int) -> None:
    assert 0 < len(held_out(images, seed)) < len(images)


@given(st.lists(contents, min_size=1, max_size=40, unique=True), contents)
def test_an_image_that_comes_or_goes_moves_none_where_both_sides_had_one(images: list[int], image: int) -> None:
    before, after = held_out(images), held_out([*images, image])
    moved = (before ^ after) - {image}
    if len({decided_alone(i) for i in images}) == 2:
        assert not moved
        assert (image in after) == ((image in before) or decided_alone(image))
    elif len(images) > 1:  # one had changed sides, so that none is empty: it alone may go back
        assert moved <= {i for i in images if decided_alone(i) != (i in before)}
        assert len(moved) <= 1


@given(st.lists(contents, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_neither_order_nor_copies_matter(images: list[int], random: Random) -> None:
    shuffled = random.sample(images, len(images))
    if len(set(images)) > 1:
        assert held_out(shuffled) == held_out(images) == held_out([*images, *images])
        assert not held_out(images) & {i for i, out in zip(images, fifth(images, 0, PURPOSE), strict=True) if not out}


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (2, 1), (10, 2), (31, 6)])
def test_copies_of_one_image_are_counted_off(count: int, expected: int) -> None:
    assert sum(fifth([7] * count, 0, PURPOSE)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_about_a_fifth_and_another_one_for_each_seed_and_purpose(seed: int) -> None:
    shares = [sum(fifth(range(1000), seed, purpose)) for purpose in ("test split", "validation")]
    assert all(160 < share < 240 for share in shares)  # three deviations
    assert fifth(range(1000), seed, "validation") != fifth(range(1000), seed, "test split")
    assert fifth(range(1000), seed, "validation") != fifth(range(1000), seed + 1, "validation")


@given(st.lists(st.tuples(st.integers(0, 4), contents), min_size=1, max_size=60), st.integers(0, 99))
def test_validation_images_are_apart_and_do_not_depend_on_labels_or_place(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    labels, numbers = (torch.tensor(column) for column in zip(*pairs, strict=True))
    rest, chosen = hold_out(labels, numbers, seed)
    assert sorted([*rest.tolist(), *chosen.tolist()]) == list(range(len(labels)))
    for label in labels.unique().tolist():
        own = numbers[labels == label]
        if len(own.unique()) > 1:
            assert 0 < (labels[chosen] == label).sum() < len(own)
    again = hold_out(labels.flip(0) + 3, numbers.flip(0), seed)[1]
    several = {int(c) for c in labels.unique() if len(numbers[labels == c].unique()) > 1}

    def images(rows: torch.Tensor, of: torch.Tensor, numbers: torch.Tensor) -> set[tuple[int, int]]:
        return {(c, n) for c, n in torch.stack([of[rows], numbers[rows]], 1).tolist() if c in several}

    assert images(chosen, labels, numbers) == images(again, labels.flip(0), numbers.flip(0))


def test_content_numbers_are_those_of_bytes_whatever_the_name(tmp_path: Path) -> None:
    for name, content in (("a.png", b"one"), ("b.jpg", b"two"), ("c.png", b"one")):
        (tmp_path / name).write_bytes(content)
    one, two, again = content_numbers([tmp_path / name for name in ("a.png", "b.jpg", "c.png")]).tolist()
    assert one == again != two
    images = random_images(3)
    numbers = content_numbers(images)
    assert numbers.dtype == torch.int64
    assert len(set(numbers.tolist())) == 3
    assert torch.equal(content_numbers(images[1:]), numbers[1:])
    assert content_numbers([]).tolist() == []


def write(folder: Path, images: dict[str, list[int]], prefix: str = "") -> Files:
    files: Files = {}
    for name, numbers in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        files[name] = [folder / name / f"{prefix}{place}.png" for place in range(len(numbers))]
        for path, number in zip(files[name], numbers, strict=True):
            path.write_bytes(str(number).encode())
    return files


def chosen_images(files: Files) -> set[bytes]:
    return {path.read_bytes() for paths in stratified_split(files)[1].values() for path in paths}


def test_one_more_file_other_names_and_other_classes_leave_the_test_images_as_they_are(tmp_path: Path) -> None:
    """This guards against an old fault: from 30 to 31 images, none of the 6 test images stayed."""
    cats, dogs = list(range(30)), list(range(30, 60))
    plain = chosen_images(write(tmp_path / "plain", {"cat": cats, "dog": dogs}))
    assert len(plain) == 5  # of 60, by chance: each is decided for itself
    assert chosen_images(write(tmp_path / "renamed", {"a cat": cats, "dog": dogs}, "IMG_")) == plain
    assert chosen_images(write(tmp_path / "moved", {"cat": [*cats, *dogs]})) == plain
    new = {str(n).encode() for n in (60, *range(100, 130))}
    more = write(tmp_path / "more", {"ant": list(range(100, 130)), "cat": [60, *cats], "dog": dogs})
    assert chosen_images(more) - new == plain
    assert chosen_images(more) & new


def test_a_class_that_is_one_image_many_times_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest, tests = stratified_split(write(tmp_path, {"cat": [1, 1, 1], "dog": [1, 2]}))
    assert (len(rest["cat"]), len(tests["cat"])) == (2, 1)
    assert capsys.readouterr().out == "class cat: its 3 files are copies of one image, used in training and test\n"
