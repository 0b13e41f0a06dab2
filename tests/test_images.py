"""Packed images of any kind are read back unchanged; only requested images are decoded."""

import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.tiny import random_images
from pipeline.data.image_files import BadImageError, open_upright, pixels, upright, upright_size
from pipeline.data.images import Images
from pipeline.data.packing import PACKED_SIDE, are_arrays, stored
from pipeline.errors import UserError
from pipeline.store import artifacts


def packed(folder: Path, images: torch.Tensor | list[Path]) -> Images:
    """Images stored as the pipeline stores them, and mapped again."""
    count = len(images)
    file = folder / "packed.safetensors"
    artifacts.save_images(file, stored(images, arrays=are_arrays(images)), {"labels": torch.arange(count)})
    tensors = artifacts.load_tensors(file)
    assert tensors["labels"].tolist() == list(range(count))
    return Images.from_tensors(tensors)


def smooth(width: int, height: int) -> Image.Image:
    """A colour ramp, which scaling and JPEG keep."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, 0 * x + 90], 2).astype(np.uint8))


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 99))
def test_arrays_come_back_bit_for_bit_in_any_selection(count: int, size: int, seed: int) -> None:
    images = random_images(count, seed, size)
    with tempfile.TemporaryDirectory() as folder:
        mapped = packed(Path(folder), images)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(mapped.pixels(32), images)
        assert torch.equal(mapped[order][: count // 2].pixels(32), images[order][: count // 2])


def test_small_files_of_one_size_become_arrays_and_others_stay_files(tmp_path: Path) -> None:
    images = random_images(5, size=32)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.numpy()).save(path)
    assert torch.equal(packed(tmp_path, paths).data, images)
    smooth(40, 32).save(tmp_path / "other.png")
    mixed = packed(tmp_path, [*paths, tmp_path / "other.png"])
    assert mixed.offsets is not None
    assert list(mixed.contents()) == [path.read_bytes() for path in [*paths, tmp_path / "other.png"]]
    assert torch.equal(mixed[torch.tensor([3, 0])].pixels(32), images[[3, 0]])


def test_large_images_are_scaled_down_and_small_ones_kept(tmp_path: Path) -> None:
    for name, size in (("large.png", (900, 600)), ("wide.jpg", (1000, 100))):
        smooth(*size).save(tmp_path / name)
    mapped = packed(tmp_path, [tmp_path / "large.png", tmp_path / "wide.jpg"])
    large, wide = mapped.contents()
    assert isinstance(large, bytes)
    assert Image.open(BytesIO(large)).size == (PACKED_SIDE * 3 // 2, PACKED_SIDE)
    assert wide == (tmp_path / "wide.jpg").read_bytes()
    decoded = mapped.pixels(64)
    assert decoded.shape == (2, 64, 64, 3)
    expected = pixels(smooth(900, 600).crop((150, 0, 750, 600)).resize((64, 64)))
    assert (decoded[0].int() - expected.int()).abs().float().mean() < 2


def test_batches_are_the_images_asked_for_in_order(tmp_path: Path) -> None:
    paths = []
    for index in range(23):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", (70, 80), (index, 2 * index, 0)).save(paths[-1])
    mapped = packed(tmp_path, paths)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0)).split(4)
    for rows, batch in zip(order, mapped.batches(order, 16), strict=True):
        assert batch[:, 0, 0, 0].tolist() == rows.tolist()
        assert batch.shape == (len(rows), 16, 16, 3)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    smooth(60, 40).save(path, exif=exif)


def sixteen_bits(path: Path) -> None:
    Image.fromarray((np.arange(80 * 90, dtype=np.uint16) * 9).reshape(80, 90)).save(path)


def clear(path: Path) -> None:
    Image.new("RGBA", (70, 90), (10, 20, 30, 0)).save(path)


@pytest.mark.parametrize(
    ("write", "name", "size", "corner"),
    [
        (turned, "turned.jpg", (40, 60), None),
        (sixteen_bits, "16.png", (90, 80), (0, 0, 0)),
        (clear, "clear.png", (70, 90), (255, 255, 255)),
        (lambda path: Image.new("L", (80, 80), 77).save(path), "grey.png", (80, 80), (77, 77, 77)),
        (lambda path: Image.new("CMYK", (80, 80), (0, 0, 0, 0)).save(path), "cmyk.jpg", (80, 80), (255, 255, 255)),
        (lambda path: smooth(80, 80).quantize(8).save(path), "palette.gif", (80, 80), None),
        (lambda path: Image.new("1", (80, 80), 1).save(path), "bilevel.tiff", (80, 80), (255, 255, 255)),
    ],
)
def test_every_kind_of_file_becomes_upright_rgb(
    tmp_path: Path, write: Callable[[Path], None], name: str, size: tuple[int, int], corner: tuple[int, ...] | None
) -> None:
    write(tmp_path / name)
    image = open_upright(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", size)
    assert corner is None or image.getpixel((0, 0)) == corner
    assert upright_size(tmp_path / name, up_to=10_000) == size
    (content,) = stored([tmp_path / name], arrays=False)
    assert isinstance(content, bytes)
    assert open_upright(BytesIO(content)).size == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "exact"), [("png", True), ("jpg", False), ("tif", True), ("webp", False)])
def test_small_images_of_one_size_are_upright_however_they_are_turned(
    tmp_path: Path, orientation: int, suffix: str, exact: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth(48, 32).save(tmp_path / f"0.{suffix}")
    smooth(48, 32).save(tmp_path / f"1.{suffix}", exif=exif)
    paths = [tmp_path / f"{index}.{suffix}" for index in range(2)]
    expected = [open_upright(path) for path in paths]
    assert expected[1].size == ((32, 48) if orientation > 4 else (48, 32))
    assert are_arrays(paths) == (orientation <= 4)
    for image, mapped in zip(expected, packed(tmp_path, paths).contents(), strict=True):
        stored_image = mapped if isinstance(mapped, torch.Tensor) else pixels(open_upright(BytesIO(mapped)))
        assert stored_image.shape == pixels(image).shape
        assert torch.equal(stored_image, pixels(image)) or not exact


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_an_uncompressed_file_shows_what_its_bytes_show(tmp_path: Path, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.arange(32 * 48).reshape(32, 48)
    deep = {"I;16": values.astype("u2"), "I": values.astype("i4"), "F": values.astype("f4")}
    given = Image.fromarray(deep[mode]) if mode in deep else smooth(48, 32).convert(mode)
    given.save(tmp_path / "0.tif", exif=exif)
    ranges = dict.fromkeys(("16-bit", "32-bit", "float"), (0.0, 1536.0))
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # orientation -> the turn that undoes it
    if orientation > 1:
        given = given.transpose(Image.Transpose(turned[orientation]))
    expected = pixels(upright(given, ranges))
    path = tmp_path / "0.tif"
    assert upright_size(path, up_to=10_000) == (expected.shape[1], expected.shape[0])
    for opened in (open_upright(path, ranges=ranges), open_upright(BytesIO(path.read_bytes()), ranges=ranges)):
        assert torch.equal(pixels(opened), expected)
    with Image.open(path) as of_a_caller:
        assert torch.equal(pixels(upright(of_a_caller, ranges)), expected)


def test_two_sizes_of_equal_area_or_count_are_no_array(tmp_path: Path) -> None:
    paths = []
    for index, size in enumerate([(48, 32), (32, 48), (48, 32), (32, 48), (64, 24), (64, 24)]):
        paths.append(tmp_path / f"{index}.png")
        smooth(*size).save(paths[-1])
    assert not are_arrays(paths)
    assert [image.size for image in map(open_upright, paths)] == [
        open_upright(BytesIO(content)).size
        for content in packed(tmp_path, paths).contents()
        if isinstance(content, bytes)
    ]
    assert not are_arrays(paths[:1], paths[1:2])


@pytest.mark.parametrize("second", [torch.zeros(32, 48, 3, dtype=torch.uint8), b"bytes"])
def test_images_of_unequal_shape_are_not_written(tmp_path: Path, second: torch.Tensor | bytes) -> None:
    images = [torch.zeros(48, 32, 3, dtype=torch.uint8), second]
    with pytest.raises(UserError, match=r"image 1 is \(.*\), the one before \(48, 32, 3\): did images change"):
        artifacts.save_images(tmp_path / "packed.safetensors", images, {"labels": torch.arange(2)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp", "avif"])
def test_of_several_frames_the_first_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"0.{suffix}", save_all=True, append_images=frames[1:])
    red, green, blue = pixels(open_upright(tmp_path / f"0.{suffix}")).float().mean((0, 1)).tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B"])
def test_every_mode_of_eight_bits_or_sixteen_is_read(tmp_path: Path, mode: str) -> None:
    """From a file: Pillow's own TIFF, or PNG if TIFF lacks the mode."""
    grey = Image.new("L", (80, 80), 200)
    if mode.startswith("I;16"):
        image = Image.fromarray(np.full((80, 80), 200 * 256, ">u2" if mode.endswith("B") else "<u2"))
    elif mode == "LAB":
        image = Image.merge("LAB", [grey, Image.new("L", (80, 80), 128), Image.new("L", (80, 80), 128)])
    else:
        image = grey.convert("RGB" if mode == "P" else mode).convert(mode)
    image.save(tmp_path / ("0.png" if mode == "P" else "0.tif"))
    (path,) = tmp_path.iterdir()
    found = pixels(open_upright(path)).float()
    assert found.shape == (80, 80, 3)
    assert 190 < found.mean() < (256 if mode == "1" else 210)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC, for which Pillow needs a package: `pip install pillow-heif`"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image that Pillow can read"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "eps", "tga"])
def test_what_is_no_image_here_is_called_by_its_name(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    (tmp_path / f"0.{suffix}").write_bytes(content)
    with pytest.raises(BadImageError, match=message):
        open_upright(tmp_path / f"0.{suffix}")


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    sixteen_bits(tmp_path / "16.png")
    grey = pixels(open_upright(tmp_path / "16.png"))[..., 0].flatten()
    assert torch.equal(grey, ((torch.arange(80 * 90) * 9) % 2**16 >> 8).to(torch.uint8))


def test_a_bad_file_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth(90, 90).save(tmp_path / "good.jpg")
    content = (tmp_path / "good.jpg").read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n"
    for name, bad, what in (
        ("cut.jpg", content[:-200], ".*"),
        ("empty.jpg", b"", ".*"),
        ("text.jpg", b"no image", "is not an image.*"),
        ("pointer.jpg", pointer, r"is a Git LFS pointer, not the file itself \(`git lfs pull` fetches it\)"),
    ):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(UserError, match=rf"{name} {what}: replace or delete it, then `dvc repro`"):
            packed(tmp_path, [tmp_path / "good.jpg", tmp_path / name])
    assert not (tmp_path / "packed.safetensors").exists()
    monkeypatch.setattr("pipeline.data.image_files._MAX_PIXELS", 1000)
    with pytest.raises(BadImageError, match="90 x 90 pixels are more than 1,000"):
        open_upright(tmp_path / "good.jpg")
