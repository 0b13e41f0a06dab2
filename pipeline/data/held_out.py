"""Decides which images are held out for testing or validation, by the content of each image alone.

An image therefore stays on its side when files or classes are renamed and when other images come or go. Copies of an
image stay together: names have no influence, and a copy under another name is not a new image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.seeds import rank

SHARE = 0.2


def fifth(contents: Sequence[int], seed: int, purpose: str) -> list[bool]:
    """Which images of a class are held out: those whose content ranks below 1/5, so about a fifth of them.

    contents: one number per image, equal for equal bytes (packing.content_numbers). Neither side stays empty: if all
    images rank on one side, the image nearest to the border changes sides, together with its copies. This is the only
    image that others can move. If all images are copies of one image, the first ones are held out, at least one; a
    class of a single file then has none left.
    """
    ranks = [rank(seed, purpose, content) for content in contents]
    different = sorted(set(ranks))
    if len(different) < 2:
        return [index < max(1, round(SHARE * len(ranks))) for index in range(len(ranks))]
    border = min(max(SHARE, different[1]), different[-1])
    return [value < border for value in ranks]


def hold_out(labels: Tensor, contents: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out about a fifth of the training images of each class: indices (rest, held out), both in order.

    labels, contents: int64 [N]. Choose hyper-parameters on the held-out part.
    """
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique().tolist():
        rows = (labels == c).nonzero().flatten()
        is_held_out[rows] = torch.tensor(fifth(contents[rows].tolist(), seed, "validation"))
    return (~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten()
