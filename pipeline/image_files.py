"""Reads a user's image file into the layout of a data set's images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pipeline.errors import UserError


def read_image(path: Path, size: int) -> Tensor:
    """The image upright, in RGB, its middle square scaled to `size`: uint8 [size, size, 3].

    Raises UserError for a file that is missing, not an image, truncated or absurdly large.
    """
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that Pillow can read: convert it to PNG or JPEG") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return torch.from_numpy(np.asarray(square).copy())
