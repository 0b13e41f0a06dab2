"""The report's figures, as PNG bytes that depend only on the numbers drawn."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.errors import visible

matplotlib.use("Agg")

_INK, _MUTED = "#1f2430", "#667085"
# Colours that the colour-blind tell apart (Okabe and Ito). In print without colour, markers and lines differ, too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2430", "#8a8f98")
_MARKERS = "osD^v<>P*X"
_LINES = {  # colour and style of each method
    "c_ln": ("#0072b2", "o-"),
    "c_ln_lda": ("#0072b2", "s:"),
    "single_stage": ("#56b4e9", "^-"),
    "oracle": ("#d55e00", "D-"),
    "frozen": ("#6b7280", "v-"),
    "frozen_ncm": ("#6b7280", "X--"),
    "frozen_lda": ("#6b7280", "s:"),
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
    """Draw a square matrix in percent, with numbers in its cells. Rows may end at the diagonal; tasks count from 1."""
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
    """Draw the average accuracy of each method over the tasks learned and, beside it, C-LN's forgetting, if any."""
    with matplotlib.style.context(["default", _STYLE]):  # whatever the user's own style
        figure = Figure(figsize=(8.0, 3.2))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        steps = range(1, len(accuracy["c_ln"]) + 1)
        for key, values in accuracy.items():
            width = 2.4 if key == "c_ln" else 1.4
            colour, style = _LINES[key]
            points = [100 * value for value in values]
            left.plot(steps, points, style, markersize=4, label=names[key], color=colour, linewidth=width)
        left.set(xlabel="tasks learned", ylabel="average accuracy (%)")
        left.set_ylim(*_limits(accuracy.values()))
        left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)  # below: it hides no line
        if forgetting:
            points = [100 * value for value in forgetting]
            right.plot(steps, points, "o-", markersize=4, color=_LINES["c_ln"][0], linewidth=2.4)
            right.set(xlabel="tasks learned", ylabel="forgetting (points)")
            right.set_ylim(min(0.0, 1.1 * min(points)), max(5.0, 1.1 * max(points)))
        else:
            right.remove()
        for axes in (left, right) if forgetting else (left,):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y", color="#e4e7ec", linewidth=0.8)
            axes.set_axisbelow(True)
        return _png(figure)


def bands(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Draw the accuracy of several variants over the tasks: the mean, and a bar of one standard deviation each way.

    The bars of a step stand side by side, since shaded bands would hide one another.
    """
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(8.0, 4.2))
        axes = figure.subplots()
        for index, (name, points) in enumerate(curves.items()):
            beside = 0.5 * ((index + 0.5) / len(curves) - 0.5)  # within half of the way to the next step
            axes.errorbar(
                [step + beside for step in range(1, len(points) + 1)],
                [100 * point["mean"] for point in points],
                [100 * (point["std"] or 0.0) for point in points],
                fmt=_MARKERS[index % len(_MARKERS)] + "-",
                color=_COLOURS[index % len(_COLOURS)],
                markersize=4,
                linewidth=1.4,
                elinewidth=1.0,
                label=_plain(name),
            )
        axes.set(xlabel="tasks learned", ylabel="average accuracy (%)")
        ends = [
            [point["mean"] + sign * (point["std"] or 0.0) for point in of] for of in curves.values() for sign in (-1, 1)
        ]
        axes.set_ylim(*_limits(ends))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#e4e7ec", linewidth=0.8)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _png(figure)


def scatter(points: Mapping[str, tuple[float, Mapping[str, Any]]]) -> bytes:
    """Draw each variant's average accuracy, with its standard deviation, against the parameters tuned per task."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(8.0, 4.6))
        axes = figure.subplots()
        for index, (name, (parameters, accuracy)) in enumerate(points.items()):
            marker = _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)]
            axes.errorbar(
                max(parameters, 1.0),
                100 * accuracy["mean"],
                100 * (accuracy["std"] or 0.0),
                fmt=marker,
                color=_COLOURS[index % len(_COLOURS)],
                markersize=6,
                linewidth=1.2,
                label=_plain(name),
            )
        axes.set_xscale("log")
        axes.set(xlabel="tuned parameters per task (1: none)", ylabel="average accuracy (%)")
        axes.grid(color="#e4e7ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        return _png(figure)


def _limits(values: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Limits of an axis in percent, in steps of ten, so that lines which differ by a few points stand apart."""
    fractions = [value for row in values for value in row]
    return max(0.0, 10 * math.floor(10 * min(fractions) - 0.2)), min(100.0, 10 * math.ceil(10 * max(fractions) + 0.2))


def _plain(name: str) -> str:
    """A name that a user chose, escaped for matplotlib, which takes a dollar as the start of a formula."""
    return visible(name).replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return content.getvalue()
