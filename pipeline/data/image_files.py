"""Reads image files of any kind as upright 8-bit RGB: greyscale, palettes, alpha, CMYK, 16 bits, EXIF rotation."""

import contextlib
import importlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from pipeline.data import git_lfs
from pipeline.data.value_range import DEEP_COLOUR, KNOWN, Range, Ranges, extremes, kind, to_8_bits
from pipeline.errors import is_refusal

# A file may have any of these formats, whatever its ending, or the format its ending names. Its first bytes decide.
_COMMON = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
# These are never opened: EPS and WMF may start a program; of the others Pillow only reads the header.
_NEVER = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"})
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIF_REMEDY = "`pip install pillow-heif`"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MAX_PIXELS = 100_000_000  # 10,000 x 10,000: anything larger is a mistake or an attack


class BadImageError(Exception):
    """A file that is not an image, is truncated or absurdly large. The message says which of these."""


@cache
def formats() -> dict[str, str]:
    """The endings that Pillow can read here, each with its format. HEIC is included if pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    found = Image.registered_extensions()
    return {end: name for end, name in found.items() if name not in _NEVER and name in {*Image.OPEN, "MPO"}}


def open_upright(file: Path | BinaryIO, *, at_least: int | None = None, ranges: Ranges | None = None) -> Image.Image:
    """The image in RGB, turned upright by its EXIF data. Transparent parts become white; only the first frame counts.

    at_least: the length of the shorter side that suffices, so that a large JPEG may be decoded at a fraction of its
    size. ranges: how more than 8 bits become 8, by kind (pipeline.data.value_range). Raises BadImageError or
    FileNotFoundError.
    """
    with _opened(file) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        return upright(image, ranges)


def upright(image: Image.Image, ranges: Ranges | None = None) -> Image.Image:
    """An opened image in RGB, as open_upright gives it. Raises BadImageError for values whose range is unknown."""
    of = kind(image)
    if isinstance(image, ImageFile.ImageFile):
        image.filename = ""  # or Pillow maps a file that the caller has opened by its path: see _opened
    turned = ImageOps.exif_transpose(image)
    return _rgb(turned) if of in (None, DEEP_COLOUR) else _grey(turned, of, {**KNOWN, **(ranges or {})})


def upright_size(path: Path, *, up_to: int) -> tuple[int, int]:
    """Width and height of an image after it is turned upright. Above `up_to` pixels, those in its header.

    Some formats store the rotation behind the pixels, so small images are decoded to find it. Raises BadImageError or
    FileNotFoundError.
    """
    with _opened(path) as image:
        is_enough = image.width == image.height or image.width * image.height > up_to
        return image.size if is_enough else ImageOps.exif_transpose(image).size


def is_image(path: Path) -> bool:
    """Whether a file begins as an image does."""
    try:
        with _opened(path):
            return True
    except (BadImageError, OSError):
        return False


def value_extremes(path: Path) -> tuple[str, Range] | None:
    """The kind of an image of more than 8 bits, and its least and greatest value; None for other images."""
    with _opened(path) as image:
        of = kind(image)
        return None if of is None else (of, _finite(np.asarray(image.convert("RGB") if of == DEEP_COLOUR else image)))


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """An image whose header has been read. Any error of Pillow, now or while it is used, becomes a BadImageError."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise BadImageError("is not a file")  # nor is a pipe, which would be waited for
    own = formats().get(file.suffix.lower()) if isinstance(file, Path) else None
    heif = ("HEIF",) if "HEIF" in Image.OPEN else ()
    try:
        # Given a path, Pillow maps a TIFF of some modes into memory, and swaps width and height of one that is turned.
        with (
            file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as content,
            Image.open(content, formats=[*_COMMON, *heif, *([own] if own in Image.OPEN else [])]) as image,
        ):
            _check_size(image)
            yield image
    except (FileNotFoundError, BadImageError):
        raise
    except UnidentifiedImageError:
        raise BadImageError(_what_it_is(file)) from None
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, struct.error, zlib.error) as error:
        if is_refusal(error):
            raise  # not the image's fault
        raise BadImageError(f"cannot be read: {error}") from None
    except (Image.DecompressionBombError, OverflowError, ImageCms.PyCMSError) as error:
        raise BadImageError(f"cannot be read: {error}") from None


def _what_it_is(file: Path | BinaryIO) -> str:
    start = b""
    if isinstance(file, Path):
        with file.open("rb") as content:
            start = content.read(64)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return f"is HEIC, for which Pillow needs a package: {HEIF_REMEDY}, or convert it to JPEG"
    if git_lfs.is_pointer(file):
        return git_lfs.ADVICE
    return "is not an image that Pillow can read: convert it to PNG or JPEG"


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > _MAX_PIXELS:
        raise BadImageError(f"{image.width} x {image.height} pixels are more than {_MAX_PIXELS:,}")
    if not image.width * image.height:
        raise BadImageError("has no pixels")


def is_plain(file: Path | BinaryIO) -> bool:
    """Whether an image that can be opened is JPEG, PNG or WebP in 8-bit RGB, and not turned."""
    with _opened(file) as image:
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return (
            image.format in ("JPEG", "PNG", "WEBP")
            and image.mode == "RGB"
            and upright
            and not image.has_transparency_data
        )


def _grey(image: Image.Image, of: str, ranges: Ranges) -> Image.Image:
    if of not in ranges:
        raise BadImageError(
            f"holds {of} values, unlike the data set, so nobody knows which value is white: save it as 8-bit"
        )
    values = np.asarray(image)
    _finite(values)
    return Image.fromarray(to_8_bits(values, ranges[of])).convert("RGB")


def _finite(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Range:
    found = extremes(values)
    if found is None:
        raise BadImageError("has no pixel that is a number")
    return found


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":  # Pillow converts it only by its colour management
        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(image, *spaces, outputMode="RGB")
        assert turned is not None
        return turned
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def pixels(image: Image.Image) -> Tensor:
    """uint8 [H, W, 3] of an RGB image."""
    return torch.from_numpy(np.asarray(image).copy())


def square(image: Image.Image, size: int) -> Tensor:
    """The image's central square, scaled to `size`: uint8 [size, size, 3]."""
    return pixels(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))
