"""Colours for light and dark pages, and labels that do not cover one another."""

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from harness.root import ROOT

FOLDER = ROOT / "docs/pictures"
Theme = Mapping[str, str]
# The colours of Okabe and Ito, which the colour-blind tell apart; lighter ones on dark pages.
THEMES: dict[str, Theme] = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1f2430",
        "muted": "#667085",
        "line": "#e4e7ec",
        "box": "#f4f6fa",
        "blue": "#0072b2",
        "orange": "#d55e00",
        "green": "#009e73",
        "purple": "#b0578d",
        "grey": "#6b7280",
    },
    "dark": {
        "paper": "#1e2129",
        "ink": "#e8eaf0",
        "muted": "#a3a9b8",
        "line": "#363b48",
        "box": "#2a2f3b",
        "blue": "#56b4e9",
        "orange": "#ff8c42",
        "green": "#3fcf9f",
        "purple": "#e39bc6",
        "grey": "#a3a9b8",
    },
}
_AROUND = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]  # where a label may stand
_ALIGN = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}


def to_svg(draw: Callable[[Theme], Figure], theme: Theme) -> bytes:
    """The picture as SVG whose bytes depend only on what is drawn. Letters are outlines, so no font is needed."""
    style = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "svg.hashsalt": "pictures",
        "text.color": theme["ink"],
        "axes.labelcolor": theme["ink"],
        "axes.edgecolor": theme["muted"],
        "xtick.color": theme["muted"],
        "ytick.color": theme["muted"],
        "axes.facecolor": theme["paper"],
        "figure.facecolor": theme["paper"],
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    content = io.BytesIO()
    with matplotlib.style.context(["default", style]):
        draw(theme).savefig(content, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def label(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> list[Bbox]:
    """Write the names of points (x, y, name, colour) where they cover least. All points count, also unnamed ones.

    Returns the boxes of the names, in pixels. The limits and scales of the axes must be set before.
    """
    places = axes.transData.transform([(x, y) for x, y, _, _ in points])
    sizes = [5 if name else 1.5 for _, _, name, _ in points]  # half the width of a marker
    taken = [Bbox.from_extents(x - s, y - s, x + s, y + s) for (x, y), s in zip(places, sizes, strict=True)]
    inside = axes.get_window_extent()
    boxes: list[Bbox] = []
    for x, y, name, colour in points:
        if not name:
            continue
        tried: list[tuple[float, int, Annotation, Bbox]] = []
        for distance, (right, up) in ((d, way) for d in (7, 13, 20) for way in _AROUND):
            text = axes.annotate(
                name,
                (x, y),
                (distance * right, distance * up),
                textcoords="offset points",
                ha=_ALIGN[right][0],
                va=_ALIGN[up][1],
                fontsize=8,
                color=colour,
            )
            box = text.get_window_extent()
            covered = sum(_overlap(box, other) for other in taken + boxes)
            outside = box.width * box.height - _overlap(box, inside)
            tried.append((covered + 10 * outside + 4 * distance, len(tried), text, box))
        best = min(tried, key=lambda item: item[:2])
        for _, _, text, _ in tried:
            if text is not best[2]:
                text.remove()
        boxes.append(best[3])
    return boxes


def _overlap(one: Bbox, other: Bbox) -> float:
    width = np.minimum(one.x1, other.x1) - np.maximum(one.x0, other.x0)
    height = np.minimum(one.y1, other.y1) - np.maximum(one.y0, other.y0)
    return float(max(width, 0.0) * max(height, 0.0))
