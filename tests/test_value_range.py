"""More than 8 bits: one range for the whole data set, and the same rule in training and predict."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.stage_repository import refusal
from pipeline.data.image_files import BadImageError, open_upright, pixels, square
from pipeline.data.images import Images
from pipeline.data.packing import packed, stored, value_ranges
from pipeline.data.value_range import Ranges, to_8_bits, widened
from pipeline.store import artifacts
from stages import predict

SIDE = 80


def write(folder: Path, count: int, top: float, dtype: type, *, bottom: float = 0, suffix: str = "tif") -> list[Path]:
    """Noise between two values."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.{suffix}" for index in range(count)]
    for index, path in enumerate(paths):
        noise = np.random.default_rng(index).random((SIDE, SIDE)) * (top - bottom) + bottom
        Image.fromarray(noise.astype(dtype)).save(path)
    return paths


@pytest.mark.parametrize(
    ("bottom", "top", "dtype"),
    [
        (0, 1, np.float32),
        (0, 255, np.float32),
        (-1, 1, np.float32),
        (280, 310, np.float32),
        (0, 255, np.int32),
        (-1024, 3071, np.int16),
        (0, 4095, np.uint16),
        (0, 65535, np.uint16),
        (7000, 9000, np.uint16),
        (0, 1e-6, np.float64),
    ],
)
def test_a_data_set_is_scaled_by_its_own_range(tmp_path: Path, bottom: float, top: float, dtype: type) -> None:
    paths = write(tmp_path, 4, top, dtype, bottom=bottom)
    ranges, notes = value_ranges(paths)
    grey = torch.stack([pixels(open_upright(path, ranges=ranges)) for path in paths]).float()
    assert 115 < grey.mean() < 140
    assert grey.min() < 20
    assert grey.max() > 230
    assert notes == []


def test_kinds_do_not_mix_and_training_counts_before_test(tmp_path: Path) -> None:
    train = write(tmp_path / "a", 2, 1, np.float32) + write(tmp_path / "b", 2, 4095, np.uint16, suffix="png")
    test = write(tmp_path / "c", 2, 9, np.float32) + write(tmp_path / "d", 2, 255, np.int32)
    ranges, _ = value_ranges(train, test)
    assert ranges == {"float": (0, 1), "16-bit": (0, 4096), "32-bit": (0, 256)}
    assert value_ranges(torch.zeros(3, 8, 8, 3, dtype=torch.uint8)) == ({}, [])


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_holds_its_values_and_little_more(one: int, other: int) -> None:
    low, high = min(one, other), max(one, other) + 1
    start, end = widened(low, high)
    assert start <= low < high <= end
    assert end - start <= (high - low) * 1.25


def test_whole_bits_stay_whole() -> None:
    for bits in (8, 12, 14, 16):
        assert widened(0, 2**bits - 1) == (0, 2**bits)
    values = np.arange(2**16)
    assert np.array_equal(to_8_bits(values, widened(0, 65535)), values >> 8)
    assert np.array_equal(to_8_bits(np.arange(256), widened(0, 255)), np.arange(256))


def test_what_is_no_number_is_black_and_nothing_else_moves(tmp_path: Path) -> None:
    values = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "0.tif")
    ranges, _ = value_ranges([tmp_path / "0.tif"])
    assert ranges == {"float": (0, 1)}
    grey = pixels(open_upright(tmp_path / "0.tif", ranges=ranges))[..., 0]
    assert grey[0, :3].tolist() == [0, 255, 0]
    assert grey[-1, -1] == 255
    Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)).save(tmp_path / "1.tif")
    assert "1.tif has no pixel that is a number" in refusal(lambda: value_ranges([tmp_path / "1.tif"]))


def test_images_of_another_scale_than_the_rest_of_their_kind_are_named(tmp_path: Path) -> None:
    paths = write(tmp_path / "a", 2, 255, np.float32) + write(tmp_path / "b", 3, 1, np.float32)
    _, (note,) = value_ranges(paths)
    assert note.startswith("3 images of more than 8 bits, such as ")
    assert "use less than 1/64" in note
    assert "b/0.tif" in note


def predicted(path: Path, ranges: Ranges | None = None) -> torch.Tensor:
    """What predict shows the model."""
    return square(open_upright(BytesIO(packed(path, ranges)), at_least=32), 32)


def test_predict_scales_as_the_data_set_was_and_refuses_what_it_did_not_hold(tmp_path: Path) -> None:
    paths = write(tmp_path / "a", 2, 4095, np.uint16, suffix="png")
    ranges, _ = value_ranges(paths)
    contents = [content for content in stored(paths, arrays=False, ranges=ranges) if isinstance(content, bytes)]
    data = torch.frombuffer(bytearray(b"".join(contents)), dtype=torch.uint8)
    offsets = torch.tensor([0, *np.cumsum([len(content) for content in contents])])
    of_data_set = Images(data, offsets, torch.arange(2)).pixels(32)
    assert torch.equal(of_data_set, torch.stack([predicted(path, ranges) for path in paths]))
    assert predicted(paths[0]).float().mean() < 16, "16 bits need no data set: 65535 is white"
    (other,) = write(tmp_path / "b", 1, 1, np.float32)
    with pytest.raises(BadImageError, match="holds float values, unlike the data set, so nobody knows"):
        predicted(other, ranges)


@pytest.mark.usefixtures("tiny_finished")
def test_predict_finds_the_range_beside_the_names_of_the_classes(tmp_path: Path) -> None:
    (path,) = write(tmp_path / "b", 1, 1, np.float32)
    assert "0.tif holds float values" in refusal(lambda: predict.main([path], top=1))
    facts = artifacts.load_json(artifacts.RAW_CLASSES)
    artifacts.save_json(artifacts.RAW_CLASSES, facts | {"ranges": {"float": (0.0, 1.0)}})
    assert refusal(lambda: predict.main([path], top=1)) == ""
    artifacts.RAW_CLASSES.unlink()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "8 bits.png")
    assert refusal(lambda: predict.main([tmp_path / "8 bits.png"], top=1)) == ""


def sixteen_bit_colour(path: Path, top: int) -> None:
    """A PNG, which Pillow reads but does not write."""
    values = (np.random.default_rng(0).random((SIDE, SIDE, 3)) * top).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_colours_of_16_bits_keep_the_upper_8_or_are_refused_by_name(tmp_path: Path) -> None:
    sixteen_bit_colour(tmp_path / "full.png", 65535)
    sixteen_bit_colour(tmp_path / "dark.png", 4095)
    paths = [tmp_path / "full.png", tmp_path / "dark.png"]
    ranges, _ = value_ranges(paths)
    assert 120 < pixels(open_upright(paths[0], ranges=ranges)).float().mean() < 135
    assert "dark.png and all other images of 16-bit colour" in refusal(lambda: value_ranges(paths[1:]))
