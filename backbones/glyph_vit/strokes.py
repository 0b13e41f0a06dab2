"""Invented characters: classes of two to four random curves, written by several hands.

A few hundred letters are too few to pretrain on. A class of random strokes costs nothing and looks like another letter.
"""

import torch
from torch import Tensor

from pipeline.data.sets.glyphs import CANVAS, INK, uniform

_POINTS = 12  # a curve is drawn as 11 straight segments


def _curves(generator: torch.Generator) -> Tensor:
    """Control points of quadratic Bezier curves filling [-1, 1]^2: [K, 3, 2]. Most start on the curve before."""
    count = int(torch.randint(2, 5, (), generator=generator))
    control = uniform(generator, -1, 1, count, 3, 2)
    for index in range(1, count):
        if torch.rand((), generator=generator) < 0.6:
            control[index, 0] = control[index - 1, int(torch.randint(3, (), generator=generator))]
    low, high = control.amin((0, 1)), control.amax((0, 1))
    return (control - (low + high) / 2) / ((high - low).max() / 2)


def _draw(control: Tensor, half_width: Tensor) -> Tensor:
    """Ink within `half_width` of any curve: uint8 [V, CANVAS, CANVAS] for control points [V, K, 3, 2]."""
    t = torch.linspace(0, 1, _POINTS)[:, None]
    start, middle, end = (point[:, :, None] for point in control.unbind(2))
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end  # [V, K, P, 2]
    origin, direction = points[:, :, :-1].flatten(1, 2), points.diff(dim=2).flatten(1, 2)  # segments [V, S, 2]
    axis = torch.linspace(-1, 1, CANVAS) * CANVAS / INK
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 1, 2)
    drawn = []
    for o, d, width in zip(origin, direction, half_width, strict=True):
        along = (((pixels - o) * d).sum(-1) / d.square().sum(-1).clamp_min(1e-9)).clamp(0, 1)
        distance = (pixels - o - along[..., None] * d).norm(dim=-1).amin(1)
        drawn.append(((width - distance) / 0.045 + 0.5).clamp(0, 1).mul(255).view(CANVAS, CANVAS))
    return torch.stack(drawn).to(torch.uint8)


def stroke_bitmaps(classes: int, hands: int, seed: int) -> Tensor:
    """Invented characters in the layout of `pipeline.data.sets.glyphs.bitmaps`: uint8 [classes, hands, CANVAS, CANVAS].

    Each hand moves the control points a little (standard deviation 0.06) and has its own stroke width.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(classes):
        control = _curves(generator)
        moved = control + 0.06 * torch.randn(hands, *control.shape, generator=generator)
        drawn.append(_draw(moved, uniform(generator, 0.06, 0.16, hands)))
    return torch.stack(drawn)
