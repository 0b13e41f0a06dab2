"""Which images are held out, for testing or for validation: the content of each decides, not its neighbours.

So an image stays where it is when files or classes are renamed and when images come or go, and copies of an image stay
together. Its name takes no part in the decision: a copy under another name is no new image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.seeds import rank

SHARE = 0.2


def fifth(contents: Sequence[int], seed: int, purpose: str) -> list[bool]:
    """Which images of a class are held out: those whose content ranks below a fifth, so about a fifth of them.

    contents: one number per image, the same for the same bytes (packing.content_numbers). Neither side stays
    empty: if all images rank on one side, the image nearest to the border, with its copies, changes sides. That is the
    only image which others can move. Copies of one image, and nothing else, are counted off: at least one is held out,
    so that nothing is left of a class of one file.
    """
    ranks = [rank(seed, purpose, content) for content in contents]
    different = sorted(set(ranks))
    if len(different) < 2:
        return [index < max(1, round(SHARE * len(ranks))) for index in range(len(ranks))]
    border = min(max(SHARE, different[1]), different[-1])
    return [value < border for value in ranks]


def hold_out(labels: Tensor, contents: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A fifth of the training images of each class apart from the rest: indices (rest, held out), both in order.

    labels, contents: int64 [N]. Where hyper-parameters are chosen, they are chosen on the held-out part.
    """
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique().tolist():
        rows = (labels == c).nonzero().flatten()
        is_held_out[rows] = torch.tensor(fifth(contents[rows].tolist(), seed, "validation"))
    return (~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten()
