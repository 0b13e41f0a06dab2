"""Turns a data set's images into the content of a packed file; selects and orders labelled images."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from pipeline.data.image_files import BadImageError, is_plain, open_upright, pixels, upright_size, value_extremes
from pipeline.data.value_range import Range, Ranges, is_dark_colour, is_nearly_uniform, widened
from pipeline.errors import UserError

ARRAY_PIXELS = 64 * 64  # images of equal size up to this are stored as arrays
PACKED_SIDE = 256  # the shorter side of an encoded image is at most this: 224 pixels, a little enlarged
_JPEG_QUALITY = 95
_JPEG_SIDE = 65_500  # the longest side that the format allows
_AHEAD = 256  # images read ahead while the disk is busy


def are_arrays(*splits: Tensor | Sequence[Path]) -> bool:
    """Whether to store images as arrays: if all are small and, upright, of one size. Raises UserError."""
    sizes: set[tuple[int, int]] = set()
    for images in splits:
        found = {(images.shape[2], images.shape[1])} if isinstance(images, Tensor) else _named(_size, images)
        for width, height in found:
            sizes.add((width, height))
            if len(sizes) > 1 or width * height > ARRAY_PIXELS:
                return False
    return True


def value_ranges(*splits: Tensor | Sequence[Path]) -> tuple[dict[str, Range], list[str]]:
    """How to scale images of more than 8 bits, by kind; and a note if some become nearly uniform.

    splits: training images first, then others. If training has images of a kind, only these decide its range. Raises
    UserError.
    """
    ranges: dict[str, Range] = {}
    notes = []
    for images in splits:
        paths = () if isinstance(images, Tensor) else images
        found = [(path, *deep) for path, deep in zip(paths, _named(value_extremes, paths), strict=True) if deep]
        for of in sorted({of for _, of, _ in found} - ranges.keys()):
            values = [value for _, kind, value in found if kind == of]
            ranges[of] = widened(min(low for low, _ in values), max(high for _, high in values))
            if is_dark_colour(of, ranges[of]):
                first = next(path for path, kind, _ in found if kind == of)
                raise UserError(
                    f"{first} and all other images of 16-bit colour use so few of their bits that they would be black: "
                    "save them as 8-bit"
                )
        flat = [path for path, of, value in found if is_nearly_uniform(value, ranges[of])]
        if flat:
            notes.append(
                f"{len(flat)} images of more than 8 bits, such as {flat[0]}, use less than 1/64 of the range of their "
                "kind and become nearly uniform: if they have another scale, save them as 8-bit"
            )
    return ranges, notes


def stored(images: Tensor | Sequence[Path], *, arrays: bool, ranges: Ranges | None = None) -> Iterator[bytes | Tensor]:
    """Each image as a packed file stores it, in order: uint8 [H, W, 3], or the bytes of an image file.

    Files in upright 8-bit RGB of at most PACKED_SIDE pixels are kept byte for byte. Larger ones are scaled down, others
    are converted without loss, and more than 8 bits become 8 by `ranges`. Raises UserError with the name of a file that
    is not an image.
    """
    if isinstance(images, Tensor):
        yield from (image if arrays else encode(Image.fromarray(image.numpy())) for image in images)
    elif arrays:
        yield from _named(lambda path: pixels(open_upright(path, ranges=ranges)), images)
    else:
        yield from _named(lambda path: packed(path, ranges), images)


Answer = TypeVar("Answer")


def _named(read: Callable[[Path], Answer], paths: Iterable[Path]) -> Iterator[Answer]:
    """read(path) of each path in order. Threads read a bounded number ahead. An error names the bad file."""

    def attempt(path: Path) -> Answer:
        try:
            return read(path)
        except (BadImageError, FileNotFoundError) as error:
            raise UserError(f"{path} {error}: replace or delete it, then `dvc repro`") from None
        except OSError as error:  # must not be mistaken for an error of the file being written
            raise UserError(f"cannot read {path}: {error.strerror}: grant access, then `dvc repro`") from None

    waiting = iter(paths)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(waiting, _AHEAD)):
            yield from pool.map(attempt, some)


def _size(path: Path) -> tuple[int, int]:
    return upright_size(path, up_to=ARRAY_PIXELS)


def packed(file: Path | bytes, ranges: Ranges | None = None) -> bytes:
    """What a packed file stores of an image file, given by its path or its bytes. Raises BadImageError."""
    opened: Path | BytesIO = BytesIO(file) if isinstance(file, bytes) else file
    image = open_upright(opened, ranges=ranges)  # decoded to the last byte: a truncated file is found here
    if min(image.size) <= PACKED_SIDE and is_plain(opened):
        return file if isinstance(file, bytes) else file.read_bytes()
    return encode(image)


def encode(image: Image.Image) -> bytes:
    """What a packed file stores of an RGB image: at most PACKED_SIDE pixels on its shorter side."""
    content = BytesIO()
    if min(image.size) > PACKED_SIDE:
        scale = PACKED_SIDE / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        if max(size) > _JPEG_SIDE:
            raise BadImageError(f"{image.width} x {image.height} pixels are too long and narrow")
        image.resize(size, Image.Resampling.BICUBIC).save(content, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(content, "PNG")
    return content.getvalue()


def content_numbers(images: Tensor | Sequence[Path]) -> Tensor:
    """One number per image, equal for equal bytes of its file or pixels, whatever its name: int64 [N].

    Raises UserError with the name of a file that cannot be read.
    """
    digests = (
        (hashlib.sha256(image.numpy().tobytes()).digest() for image in images)
        if isinstance(images, Tensor)
        else _named(_file_digest, images)
    )
    return torch.tensor([int.from_bytes(digest[:8]) >> 1 for digest in digests], dtype=torch.int64)


def _file_digest(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise BadImageError("is not a file")  # nor is a pipe, which would be waited for
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from None


def rows_of(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Indices of the images of these classes, class by class, and their labels as positions in `classes`."""
    rows = [(labels == c).nonzero().flatten() for c in classes]
    positions = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(r) for r in rows]))
    return torch.cat(rows), positions
