"""Images of more than 8 bits: the values they hold, and the rule that turns these into 8 bits.

A file does not say which value is black and which is white: 12 bits may be stored in 16, floats may end at 1, at 255 or
anywhere, radiographs may go below zero. So all images of one kind in a data set share the range of their values;
training, test and predict scale by it. Only for 16 unsigned bits is the range known without a data set: 65535 is white.
"""

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

Values = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Range = tuple[float, float]  # the values that become 0 and 255
Ranges = Mapping[str, Range]  # by kind

SIXTEEN_BITS = "16-bit"
DEEP_COLOUR = "16-bit colour"  # Pillow reads only the upper 8 bits of it
KNOWN: Ranges = {SIXTEEN_BITS: (0.0, 65536.0)}
_STEPS = 16  # a range is at most this many steps wide, and at least half as many
_NEARLY_UNIFORM = 1 / 64  # share of the range: four of 256 greys


def kind(image: Image.Image) -> str | None:
    """The kind of images that this one shares a range with; None for 8 bits or fewer. Its pixels are not read."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # scaled by its own maximum
        return SIXTEEN_BITS
    tiles = getattr(image, "tile", [])
    layout = str(tiles[0].args) if tiles else ""
    if image.mode in ("LA", "RGB", "RGBA") and ";16" in layout:
        return DEEP_COLOUR
    if image.mode == "I":
        return "signed 16-bit" if "I;16" in layout else "32-bit"
    return "float" if image.mode == "F" else None


def extremes(values: Values) -> Range | None:
    """Least and greatest finite value; None if there is no finite value."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def widened(low: float, high: float) -> Range:
    """The range of a data set whose values lie between `low` and `high`.

    Its ends are multiples of a power of two, and it is 9 to 17 of them wide. So one more image hardly ever changes it,
    and 0 to 65535, 4095 and 255 become whole bits.
    """
    if low == high:
        low, high = min(low, 0.0), max(high, 1.0)
    step = 2.0 ** math.ceil(math.log2(high - low)) / _STEPS
    return math.floor(low / step) * step, math.ceil(high / step) * step


def is_nearly_uniform(values: Range, scale: Range) -> bool:
    """Whether an image with these extremes would be left with hardly more than one grey in this range."""
    return values[1] - values[0] < (scale[1] - scale[0]) * _NEARLY_UNIFORM


def is_dark_colour(of: str, scale: Range) -> bool:
    """Whether 16-bit colours use so few bits that hardly any are left: 12 bits become 4."""
    return of == DEEP_COLOUR and scale[1] <= 32


def to_8_bits(values: Values, scale: Range) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Scale linearly to uint8 of the same shape. Values outside become black or white, NaN becomes black."""
    low, high = scale
    scaled = (values.astype(np.float64) - low) * (256 / (high - low))
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).clip(0, 255).astype(np.uint8)
