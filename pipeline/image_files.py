"""Reads image files of any kind as upright 8-bit RGB: greyscale, palettes, alpha, CMYK, 16 bits, EXIF rotation."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pipeline import git_lfs
from pipeline.errors import UserError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # whatever the suffix; others may start a program
_MAX_PIXELS = 100_000_000  # a side of 10,000: more is a mistake or an attack


class BadImageError(Exception):
    """A file that is no image, truncated or absurdly large; the message says which."""


def open_upright(file: Path | BinaryIO, *, at_least: int | None = None) -> Image.Image:
    """The image in RGB, turned as its EXIF says; what is transparent is white, 16 bits become 8.

    at_least: the shorter side that is enough, so that a large JPEG may be decoded at a fraction of its size. Raises
    BadImageError, or FileNotFoundError.
    """
    with _opened(file) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        return _rgb(ImageOps.exif_transpose(image))


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as the file's header says. Raises BadImageError, or FileNotFoundError."""
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """An image whose header is read; whatever Pillow raises now or while it is used becomes a BadImageError."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise BadImageError("is not a file")  # nor is a pipe, which would be waited for
    try:
        with Image.open(file, formats=_FORMATS) as image:
            _check_size(image)
            yield image
    except (FileNotFoundError, BadImageError):
        raise
    except UnidentifiedImageError:
        if git_lfs.is_pointer(file):
            raise BadImageError(git_lfs.ADVICE) from None
        raise BadImageError("is not an image that Pillow can read: convert it to PNG or JPEG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImageError(f"cannot be read: {error}") from None


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > _MAX_PIXELS:
        raise BadImageError(f"{image.width} x {image.height} pixels are more than {_MAX_PIXELS:,}")
    if not image.width * image.height:
        raise BadImageError("has no pixels")


def is_plain(file: BinaryIO) -> bool:
    """Whether an image that can be opened is JPEG, PNG or WebP in 8-bit RGB, and not turned."""
    with Image.open(file) as image:
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return (
            image.format in ("JPEG", "PNG", "WEBP")
            and image.mode == "RGB"
            and upright
            and not image.has_transparency_data
        )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        grey = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def pixels(image: Image.Image) -> Tensor:
    """uint8 [H, W, 3] of an RGB image."""
    return torch.from_numpy(np.asarray(image).copy())


def square(image: Image.Image, size: int) -> Tensor:
    """Its middle square, scaled to `size`: uint8 [size, size, 3]."""
    return pixels(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def read_image(path: Path, size: int) -> Tensor:
    """A user's image file, its middle square scaled to `size`: uint8 [size, size, 3].

    Raises UserError for a file that is missing, not an image, truncated or absurdly large.
    """
    try:
        return square(open_upright(path), size)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except BadImageError as error:
        raise UserError(f"{path} {error}") from None
