"""Folders of images that are broken, hostile or merely odd.

Each case writes a folder `images` next to params.yaml, and returns the parameters that it needs.
"""

import io
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

Changes = dict[str, object]  # of params.yaml
Write = Callable[[Path], Changes]  # into this folder

IMAGES = Path("images")
CLASSES = ("class 0", "class 1", "class 2", "class 3")
FORMATS = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")
MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F")


def picture(value: int = 0, *, suffix: str = "png", size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    """An image file of one colour that depends on the value, and a corner that does not."""
    image = Image.new("RGB", size, ((value * 37) % 256, (value * 91) % 256, (value * 53) % 256))
    image.putpixel((0, 0), (255, 0, 0))
    content = io.BytesIO()
    if mode in ("I", "I;16", "F"):
        image.convert("L").convert("I" if mode == "I;16" else mode).convert(mode).save(content, "TIFF")
    else:
        image.convert(mode).save(content, Image.registered_extensions()[f".{suffix}"])
    return content.getvalue()


def write_classes(folder: Path, *, count: int = 3, classes: tuple[str, ...] = CLASSES) -> None:
    """Write a good data set: CLASS/*.png, with `count` images per class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (folder / name / f"{index}.png").write_bytes(picture(10 * number + index))


def _good(folder: Path) -> Path:
    write_classes(folder / IMAGES)
    return folder / IMAGES


def _counts(folder: Path, *counts: int, **changes: object) -> Changes:
    for name, count in zip(CLASSES, counts, strict=False):
        write_classes(folder / IMAGES, count=count, classes=(name,))
    return changes


def _splits(folder: Path, train: tuple[str, ...], test: tuple[str, ...]) -> Changes:
    for split, classes in (("train", train), ("test", test)):
        if classes:
            write_classes(folder / IMAGES / split, classes=classes)
    return {}


def _names(folder: Path, *names: str) -> Changes:
    write_classes(folder / IMAGES, classes=(*names, *CLASSES[len(names) :]))
    return {}


def _one_image(folder: Path, content: bytes, name: str = "odd.png") -> Changes:
    (_good(folder) / CLASSES[0] / name).write_bytes(content)
    return {}


def _one_entry(folder: Path, make: Callable[[Path], object], name: str = "odd.png") -> Changes:
    make(_good(folder) / CLASSES[0] / name)
    return {}


def _all_images(folder: Path, content: bytes, name: str = "{}.png", **changes: object) -> Changes:
    for directory in CLASSES:
        (folder / IMAGES / directory).mkdir(parents=True)
        for index in range(3):
            (folder / IMAGES / directory / name.format(index)).write_bytes(content)
    return changes


def claims(suffix: str, side: int = 100_000) -> bytes:
    """The header of an image with that many pixels per side, followed by almost nothing."""
    if suffix == "png":
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        rest = b"IDAT" + zlib.compress(bytes(1000))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, rest)
        )
    if suffix == "ppm":
        return b"P6 %d %d 255\n" % (side, side) + bytes(100)
    content = bytearray(picture(suffix=suffix))
    short = struct.pack("<H", min(side, 65_535))
    if suffix == "bmp":
        content[18:26] = struct.pack("<II", side, side)
    elif suffix == "gif":
        content[6:10] = short * 2
    elif suffix == "jpg":
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">H", min(side, 65_535)) * 2
    elif suffix == "tif":
        for tag in (256, 257):  # width, height
            start = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
            content[start : start + 4] = struct.pack("<I", side)
    else:
        start = content.index(b"VP8 ") + 14
        content[start : start + 4] = struct.pack("<H", 0x3FFF) * 2
    return bytes(content)


LAYOUTS: dict[str, Write] = {
    "no image at all": lambda folder: _counts(folder, 0, 0, 0, 0),
    "an empty class": lambda folder: _counts(folder, 3, 3, 0, 3),
    "an image in all": lambda folder: _counts(folder, 1, 0, 0, 0),
    "one image per class": lambda folder: _counts(folder, 1, 1, 1, 1),
    "two images per class": lambda folder: _counts(folder, 2, 2, 2, 2),
    "two images per class, half for validation": lambda folder: _counts(folder, 2, 2, 2, 2, evaluate_on="validation"),
    "two images per class, mixtures": lambda folder: _counts(folder, 2, 2, selector="gmm", classes_per_task=1),
    "two images per class, categories": lambda folder: _counts(folder, 2, 2, selector="fuzzy_art", classes_per_task=1),
    "two images per class, discriminant": lambda folder: _counts(folder, 2, 2, classifier="lda", classes_per_task=1),
    "a single class": lambda folder: _counts(folder, 5),
    "classes for one task": lambda folder: _counts(folder, 3, 3),
    "a class of many images": lambda folder: _counts(folder, 60, 2, 2, 2),
    "no test folder": lambda folder: _splits(folder, CLASSES, ()),
    "no train folder": lambda folder: _splits(folder, (), CLASSES),
    "a class without test images": lambda folder: _splits(folder, CLASSES, CLASSES[1:]),
    "a class without training images": lambda folder: _splits(folder, CLASSES[:-1], CLASSES),
    "folders within folders": lambda folder: _splits(folder, ("a/b", "c/d"), ("a/b", "c/d")),
    "no folder": lambda _: {},
    "a file for a folder": lambda folder: _counts(folder, 3, data_dir="params.yaml"),
    "names that differ in case": lambda folder: _names(folder, "dog", "Dog", "DOG"),
    "names that look alike": lambda folder: _names(folder, *(unicodedata.normalize(n, "é") for n in ("NFC", "NFD"))),
    "names for a terminal": lambda folder: _names(folder, "\x1b[2Jgone", "a\rb", "a\nb", "\u202eevil"),
    "names for Markdown": lambda folder: _names(folder, "a|b", "`a`", "[a](http:b)", "<script>alert(1)<script>"),
    "names for a shell": lambda folder: _names(folder, "$(touch pwned)", "; touch pwned", "-rf", "'"),
    "names for formats": lambda folder: _names(folder, "%s%n", "{0}", "=1+1", "NaN"),
    "names of 255 bytes": lambda folder: _names(folder, *(letter * 255 for letter in "abcd")),
    "a name that is not UTF-8": lambda folder: _names(folder, os.fsdecode(b"caf\xe9")),
    "a file name that is not UTF-8": lambda folder: _one_image(folder, picture(1), os.fsdecode(b"\xe9.png")),
    "a file name for a terminal": lambda folder: _one_image(folder, b"", "\x1b[2J\n.png"),
    "a folder named as an image": lambda folder: _one_entry(folder, Path.mkdir),
    "a pipe named as an image": lambda folder: _one_entry(folder, os.mkfifo),
    "a device named as an image": lambda folder: _one_entry(folder, lambda path: path.symlink_to("/dev/zero")),
    "a link to nothing": lambda folder: _one_entry(folder, lambda path: path.symlink_to("nowhere")),
    "a link to itself": lambda folder: _one_entry(folder, lambda path: path.symlink_to(path.name)),
    "a link to its folder": lambda folder: _one_entry(folder, lambda path: path.symlink_to(".")),
    "the same image always": lambda folder: _all_images(folder, picture(1)),
    "the same image always, discriminant": lambda folder: _all_images(folder, picture(1), classifier="lda"),
    "the same image always, mixtures": lambda folder: _all_images(folder, picture(1), selector="gmm"),
    "the same image always, k-means": lambda folder: _all_images(folder, picture(1), selector="kmeans"),
    "the same image always, perceptron": lambda folder: _all_images(folder, picture(1), selector="perceptron"),
    "the same image always, carried": lambda folder: _all_images(
        folder, picture(1), classifier="carried_gaussians", selection="latest"
    ),
}


def _contents() -> Iterator[tuple[str, Write]]:
    for suffix in FORMATS:
        content = picture(1, suffix=suffix)
        for share in (0.3, 0.9):
            cut = content[: int(share * len(content))]
            yield f"{suffix} cut at {share:.0%}", partial(_one_image, content=cut, name=f"odd.{suffix}")
        yield f"{suffix} that claims 100,000 pixels", partial(_one_image, content=claims(suffix), name=f"odd.{suffix}")
    for mode in MODES:
        suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
        odd = partial(_all_images, content=picture(1, suffix=suffix, mode=mode), name="{}." + suffix)
        yield f"images in {mode}", odd
    yield "an empty file", partial(_one_image, content=b"")
    yield "text", partial(_one_image, content=b"no image")
    yield "PostScript", partial(_one_image, content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(pwned) run\n")
    yield "SVG", partial(_one_image, content=b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    yield "a pixel", partial(_one_image, content=picture(1, size=(1, 1)))
    yield "a line across", partial(_one_image, content=picture(1, size=(50_000, 1)))
    yield "a line down", partial(_one_image, content=picture(1, size=(1, 50_000)))
    yield "a ribbon", partial(_one_image, content=picture(1, size=(257, 66_000)))
    yield "PNG with a bomb of text", partial(_one_image, content=_text_bomb())


def _text_bomb() -> bytes:
    content = picture(1)
    chunk = b"zTXtComment\0\0" + zlib.compress(bytes(20 * 2**20), 9)
    packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + packed + content[33:]  # behind the header


def data_sets() -> dict[str, Write]:
    """All cases, by name."""
    return {**LAYOUTS, **dict(_contents())}
