"""The report's figures, as PNG bytes that depend on nothing but the numbers drawn."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

matplotlib.use("Agg")

_INK, _MUTED = "#1f2430", "#667085"
_COLOURS = {
    "c_ln": "#0b6e99",
    "single_stage": "#7fb7cf",
    "oracle": "#d98e04",
    "frozen": "#8a8f98",
    "frozen_ncm": "#8a8f98",
}
_ANNOTATE_UP_TO = 12  # rows of a heat map whose cells have room for a number
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}


def heat_map(values: Sequence[Sequence[float]], *, x: str, y: str, label: str) -> bytes:
    """A square matrix in percent, with the numbers in its cells; rows may end at the diagonal. Tasks count from 1."""
    size = len(values)
    cells = np.full((size, size), np.nan)
    for index, row in enumerate(values):
        cells[index, : len(row)] = 100 * np.array(row)
    shown = min(size, _ANNOTATE_UP_TO)
    with matplotlib.style.context(["default", _STYLE]):  # whatever the user's own style
        figure = Figure(figsize=(2.2 + 0.5 * shown, 1.2 + 0.42 * shown))
        axes = figure.subplots()
        image = axes.imshow(cells, cmap="YlGnBu", vmin=min(0.0, float(np.nanmin(cells))), vmax=100, aspect="auto")
        ticks = range(0, size, 1 if size == shown else size // 10)
        names = [str(task + 1) for task in ticks]
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names)
        axes.set(xlabel=x, ylabel=y)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label=label).ax.tick_params(length=0)
        if size == shown:
            for (row, column), value in np.ndenumerate(cells):
                if not np.isnan(value):
                    axes.text(
                        column, row, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else _INK
                    )
        return _png(figure)


def curves(accuracy: Mapping[str, Sequence[float]], forgetting: Sequence[float], names: Mapping[str, str]) -> bytes:
    """Average accuracy of each method over the tasks learned and, beside it, the forgetting of C-LN."""
    with matplotlib.style.context(["default", _STYLE]):  # whatever the user's own style
        figure = Figure(figsize=(8.0, 3.2))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        steps = range(1, len(forgetting) + 1)
        for key, values in accuracy.items():
            width = 2.4 if key == "c_ln" else 1.4
            points = [100 * value for value in values]
            left.plot(
                steps,
                points,
                "o--" if key == "frozen_ncm" else "o-",
                markersize=4,
                label=names[key],
                color=_COLOURS[key],
                linewidth=width,
            )
        left.set(xlabel="tasks learned", ylabel="average accuracy (%)")
        left.set_ylim(0, 100)
        left.legend(frameon=False, loc="lower left")
        right.plot(
            steps, [100 * value for value in forgetting], "o-", markersize=4, color=_COLOURS["c_ln"], linewidth=2.4
        )
        right.set(xlabel="tasks learned", ylabel="forgetting (points)")
        right.set_ylim(min(0.0, 110 * min(forgetting)), max(5.0, 110 * max(forgetting)))
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y", color="#e4e7ec", linewidth=0.8)
            axes.set_axisbelow(True)
        return _png(figure)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return content.getvalue()
