"""The embedded images: disjoint characters and faces, always the same images, and the right number of them."""

import hashlib
from pathlib import Path

import pytest
import torch

from pipeline.data.datasets import fetch_dataset
from pipeline.data.image_set import ImageSet
from pipeline.data.sets import glyph_images, glyphs
from pipeline.data.sets.glyph_images import RENDITIONS, SIZE, Rendition
from pipeline.errors import UserError
from pipeline.seeds import generator


@pytest.fixture(scope="module")
def characters() -> tuple[list[str], list[str]]:
    return glyphs.split_characters()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """The data set with fewer images per class."""
    monkeypatch.setattr(glyph_images, "TRAIN_PER_CLASS", 3)
    monkeypatch.setattr(glyph_images, "TEST_PER_CLASS", 2)
    return glyph_images.draw_glyphs()


def test_benchmark_and_pretraining_share_no_character_and_no_look(characters: tuple[list[str], list[str]]) -> None:
    benchmark, pretraining = characters
    assert len(set(benchmark)) == len(benchmark) == glyphs.BENCHMARK_CHARACTERS
    assert not set(benchmark) & set(pretraining)
    assert len(pretraining) > 400
    masks = glyphs.bitmaps([*benchmark, *pretraining], glyphs.TRAIN_FACES).flatten(1)
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks)
    # The committed weights never saw these: where another font or library draws the line elsewhere, pretrain anew.
    digest = hashlib.sha256("".join(sorted(benchmark)).encode()).hexdigest()
    assert digest == "6339d1550a1d9a9efd89cc1b17218a947ae798d8cf859d312ce59db434312734"


def test_the_benchmark_draws_the_characters_that_the_pretraining_never_saw(
    characters: tuple[list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The characters are written down with their renditions, so no other font can change them."""
    assert sorted("".join(glyph_images.CHARACTERS)) == sorted(characters[0])
    assert {len(own) for own in glyph_images.CHARACTERS} == {10}
    assert len(glyph_images.CHARACTERS) == len(RENDITIONS)
    monkeypatch.setattr(glyphs, "distinct_characters", lambda: ["x", *characters[0], *characters[1]])
    monkeypatch.setattr(glyph_images, "TRAIN_PER_CLASS", 1)
    monkeypatch.setattr(glyph_images, "TEST_PER_CLASS", 1)
    assert glyph_images.draw_glyphs().classes == [
        f"{rendition.__name__} {character}"
        for rendition, own in zip(RENDITIONS, glyph_images.CHARACTERS, strict=True)
        for character in own
    ]


def test_training_and_test_faces_differ() -> None:
    assert not set(glyphs.TRAIN_FACES) & set(glyphs.TEST_FACES)
    assert len(glyphs.TRAIN_FACES) + len(glyphs.TEST_FACES) == 12
    train, test = (glyphs.bitmaps(["A"], faces)[0] for faces in (glyphs.TRAIN_FACES, glyphs.TEST_FACES))
    assert not any(torch.equal(a, b) for a in train for b in test)


def test_layout_and_repetition(few: ImageSet) -> None:
    assert isinstance(few.train_images, torch.Tensor)
    assert isinstance(few.test_images, torch.Tensor)
    assert few.train_images.shape == (300, SIZE, SIZE, 3)
    assert few.test_images.shape == (200, SIZE, SIZE, 3)
    assert few.train_images.dtype == few.test_images.dtype == torch.uint8
    assert few.train_labels.bincount().tolist() == [3] * 100
    assert few.test_labels.bincount().tolist() == [2] * 100
    assert len(set(few.classes)) == len(few.groups) == 100
    assert {group: few.groups.count(group) for group in few.groups} == {r.__name__: 10 for r in RENDITIONS}
    again = glyph_images.draw_glyphs()
    assert isinstance(again.train_images, torch.Tensor)
    assert isinstance(again.test_images, torch.Tensor)
    assert torch.equal(again.train_images, few.train_images)
    assert torch.equal(again.test_images, few.test_images)
    assert len({image.numpy().tobytes() for image in few.train_images}) == 300


@pytest.mark.parametrize("rendition", RENDITIONS, ids=lambda rendition: rendition.__name__)
def test_a_rendition_shows_the_glyph(rendition: Rendition) -> None:
    """On average, images of one glyph are nearer to each other than to those of another glyph."""
    a, b = glyphs.bitmaps(["I", "O"], glyphs.TRAIN_FACES)[:, 0]
    draws = [rendition(mask.expand(400, -1, -1), generator(0, rendition.__name__)) for mask in (a, b)]
    assert draws[0].shape == (400, 3, SIZE, SIZE)
    means = [(images - images.mean((2, 3), keepdim=True)).abs().mean((0, 1)) for images in draws]
    assert (means[0] - means[1]).abs().max() > 0.02
    assert draws[0].std(0).mean() > 0.01


def test_a_glyph_keeps_its_shape_when_placed() -> None:
    mask = glyphs.bitmaps(["L"], glyphs.TRAIN_FACES)[0, :1]
    placed = glyphs.place(mask.expand(200, -1, -1), generator(0), size=32)
    assert 0 <= placed.min() <= placed.max() <= 1
    left, right = placed.mean((0, 1))[:, :16].mean(), placed.mean((0, 1))[:, 16:].mean()
    assert left > right  # the stem of an L
    turned = glyphs.place(mask.expand(200, -1, -1), generator(0), size=32, turn=180).mean((0, 1))
    assert turned[:, :16].mean() < turned[:, 16:].mean()


def test_blur_keeps_the_mean_of_a_flat_image_and_clouds_have_the_size() -> None:
    flat = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(glyphs.blur(flat, 1.0), flat)
    assert glyphs.clouds(5, generator(0), cells=4, size=20).shape == (5, 3, 20, 20)


def test_unknown_data_set_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"dataset 'omniglot' is unknown: choose one of glyphs, .*cifar100.*, image_folder"
    ):
        fetch_dataset("omniglot", data_dir=Path(), scratch=Path())
