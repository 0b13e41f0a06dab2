"""Letters and digits of the DejaVu faces that matplotlib ships, as bitmaps and as randomly placed masks.

This source of images needs no network. The embedded data set and the pretraining of the embedded backbone both draw
from it, but from disjoint characters (`split_characters`). Training and test images come from different faces.
"""

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

TRAIN_FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)
TEST_FACES = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-BoldItalic")

CANVAS = 64  # side of a bitmap, in pixels
INK = 44  # the longer side of a glyph's ink on it
BENCHMARK_CHARACTERS = 100  # the others are for pretraining
_ALIKE = 0.93  # two glyphs count as one from this correlation over all faces (Cyrillic and Greek capitals, o and O)


def _font_file(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


def _undecorated() -> list[str]:
    """Letters and digits that every face has and that have no Unicode decomposition, by code point."""
    covered = [set(FT2Font(_font_file(face)).get_charmap()) for face in (*TRAIN_FACES, *TEST_FACES)]
    common = (chr(code) for code in sorted(set.intersection(*covered)))
    return [
        c
        for c in common
        if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lo", "Nd") and not unicodedata.decomposition(c)
    ]


def _draw(character: str, font: ImageFont.FreeTypeFont) -> NDArray[np.uint8]:
    large = Image.new("L", (4 * CANVAS, 4 * CANVAS))
    ImageDraw.Draw(large).text((CANVAS, CANVAS), character, fill=255, font=font)
    ink = large.crop(large.getbbox())
    scale = INK / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(ink.resize(size, Image.Resampling.BOX), ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2))
    return np.asarray(canvas)


def bitmaps(characters: list[str], faces: tuple[str, ...]) -> Tensor:
    """Every character in every face, its ink scaled to the same size and centred: uint8 [C, F, CANVAS, CANVAS]."""
    fonts = [ImageFont.truetype(_font_file(face), 96, layout_engine=ImageFont.Layout.BASIC) for face in faces]
    return torch.from_numpy(np.stack([[_draw(character, font) for font in fonts] for character in characters]))


def distinct_characters() -> list[str]:
    """The undecorated characters without those that look like an earlier one in every face."""
    characters = _undecorated()
    flat = bitmaps(characters, TRAIN_FACES).flatten(1).float()
    flat = functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)  # [C, F * CANVAS^2]
    alike = (flat @ flat.T > _ALIKE).numpy()
    kept: list[int] = []
    for index in range(len(characters)):
        if not alike[index, kept].any():
            kept.append(index)
    return [characters[index] for index in kept]


def split_characters() -> tuple[list[str], list[str]]:
    """Two disjoint lists, always the same: characters of the benchmark and characters for pretraining."""
    characters = distinct_characters()
    order = torch.randperm(len(characters), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [characters[index] for index in order]
    return shuffled[:BENCHMARK_CHARACTERS], shuffled[BENCHMARK_CHARACTERS:]


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Independent draws from U(low, high)."""
    return torch.rand(*shape, generator=generator) * (high - low) + low


def place(bitmaps: Tensor, generator: torch.Generator, *, size: int, turn: float = 0.0) -> Tensor:
    """Draw each bitmap at a random angle, scale, aspect, shear and position.

    bitmaps: uint8 [B, CANVAS, CANVAS]; turn: mean angle in degrees, the angle is within 15 of it. Returns how much of
    each pixel the ink covers: float32 [B, 1, size, size] in [0, 1].
    """
    count = len(bitmaps)
    angle = torch.deg2rad(turn + uniform(generator, -15, 15, count))
    scale, aspect = uniform(generator, 0.78, 1.1, count), uniform(generator, 0.88, 1.13, count)
    shear, shift = uniform(generator, -0.2, 0.2, count), uniform(generator, -0.16, 0.16, count, 2, 1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
    rotation = torch.stack([cos, -sin, sin, cos], 1).view(count, 2, 2)
    stretch = torch.stack([aspect / scale, shear, zero, 1 / (aspect * scale)], 1).view(count, 2, 2)
    affine = torch.cat([stretch @ rotation, shift], 2)  # [B, 2, 3]: output pixel -> bitmap
    grid = functional.affine_grid(affine, [count, 1, size, size], align_corners=False)
    return functional.grid_sample(bitmaps[:, None].float() / 255, grid, align_corners=False).clamp(0, 1)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with edges repeated, [B, C, H, W]."""
    radius, channels = 4, images.shape[1]
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    padded = functional.pad(images, (radius,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel[:, :, None, :], groups=channels)
    return functional.conv2d(rows, kernel[:, :, :, None], groups=channels)


def clouds(count: int, generator: torch.Generator, *, cells: int, size: int) -> Tensor:
    """Smooth coloured noise with unit variance at its nodes, `cells` of them per side: [B, 3, size, size]."""
    nodes = torch.randn(count, 3, cells, cells, generator=generator)
    return functional.interpolate(nodes, size=size, mode="bicubic", align_corners=False)
