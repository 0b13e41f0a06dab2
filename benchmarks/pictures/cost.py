"""Accuracy against cost, for every method that reports/ has numbers of."""

import json
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from benchmarks.pictures.style import Theme, label
from benchmarks.studies.methods_page import NAMES, OURS
from harness.root import ROOT

_REPORTS = ROOT / "reports"
_SEEDS = (0, 1, 2)  # those of reports/benchmarks; the comparison has more
_GROUPS = {  # name -> colour, marker
    "the paper's key and heads": ("blue", "o"),
    "the same, with a linear discriminant": ("purple", "s"),
    "mean of all tasks, carried Gaussians": ("green", "D"),
    "nothing tuned": ("grey", "s"),
    "only the newest model is kept": ("orange", "v"),
    "sees all images at once (not continual)": ("orange", "^"),
    "methods of others": ("ink", "P"),
    "other selectors and classifiers": ("grey", "."),
}
_KINDS = {
    "layernorm": "LayerNorms",
    "ia3": "(IA)³",
    "lora": "LoRA",
    "apt": "APT",
    "diff_pruning": "diff pruning",
    "synqt": "SynQT",
}
_OF_KINDS = {  # selection and classifier
    ("key", "softmax"): "the paper's key and heads",
    ("key", "lda"): "the same, with a linear discriminant",
    ("mean", "carried_gaussians"): "mean of all tasks, carried Gaussians",
}
_VARIANTS = {  # of the comparison
    "C-LN layerwise": ("the paper's key and heads", "layer by layer"),
    "sequential LayerNorm tuning": ("only the newest model is kept", "LayerNorms"),
    "sequential full fine-tuning": ("only the newest model is kept", "whole backbone"),
    "joint LayerNorm tuning": ("sees all images at once (not continual)", "LayerNorms"),
}
_BESIDE = {  # rows that the same runs have
    "c_ln_lda": ("the same, with a linear discriminant", "LayerNorms"),
    "frozen": ("nothing tuned", "softmax head"),
    "frozen_ncm": ("nothing tuned", "nearest class mean"),
}
_NAMED = {  # features, selector and classifier
    ("cls", "key", "softmax"): ("the paper's key and heads", "C-LN"),
    ("cls", "key", "lda"): ("the same, with a linear discriminant", "C-LN"),
    ("cls", "average", "carried_gaussians"): ("mean of all tasks, carried Gaussians", "LayerNorms"),
    ("cls_4", "average", "class_gaussians"): ("mean of all tasks, carried Gaussians", "LayerNorms (preset best)"),
    ("cls", "latest", "carried_gaussians"): ("only the newest model is kept", "carried Gaussians"),
    ("cls_4", "frozen", "class_gaussians"): ("nothing tuned", "preset best's classifier"),
}
_OF_METHODS = {
    "best": _NAMED["cls_4", "average", "class_gaussians"],
    "best_photographs": ("mean of all tasks, carried Gaussians", "preset best_photographs"),
    **{method: ("methods of others", name) for method, name in NAMES.items() if method not in OURS},
}


class Point(NamedTuple):
    """A method: its cost, and its average accuracy in percent."""

    cost: float
    accuracy: float
    group: str
    name: str  # empty: not written


def draw(theme: Theme) -> Figure:
    """Left: glyphs, against the numbers that a task tunes. Right: CIFAR-100, against the passes that an image takes."""
    figure = Figure(figsize=(9.6, 5.0), layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    left, right = figure.subplots(1, 2, width_ratios=(4, 3))
    panel(left, glyphs(), theme, title="Characters: what a task tunes")
    left.set_xscale("symlog", linthresh=300, linscale=0.35)
    left.set(xlim=(-60, 6e6), xlabel="numbers tuned per task", ylabel="average accuracy (%)")
    ticks = [0, 1_000, 10_000, 100_000, 1_000_000]
    left.xaxis.set_major_locator(FixedLocator(ticks))
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    left.xaxis.set_minor_locator(FixedLocator([]))
    panel(right, cifar(), theme, title="Photographs (CIFAR-100): what an image costs")
    right.set_xscale("log")
    right.set(xlim=(0.55, 14), xlabel="passes through the backbone per image")
    right.xaxis.set_major_locator(FixedLocator([1, 2, 10]))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.xaxis.set_minor_locator(FixedLocator([]))
    shown = {handle.get_label(): handle for axes in (left, right) for handle in axes.get_legend_handles_labels()[0]}
    figure.legend(
        [shown[name] for name in _GROUPS if name in shown],
        [name for name in _GROUPS if name in shown],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    figure.draw_without_rendering()  # fixes where the axes are
    for axes, points in ((left, glyphs()), (right, cifar())):
        named = [(point.cost, point.accuracy, point.name, theme[_GROUPS[point.group][0]]) for point in points]
        label(axes, named)
    return figure


def panel(axes: Axes, points: list[Point], theme: Theme, *, title: str) -> None:
    """The points of one benchmark, by group."""
    for name, (colour, marker) in _GROUPS.items():
        of = [point for point in points if point.group == name]
        if of:
            hollow = "not continual" in name
            axes.plot(
                [point.cost for point in of],
                [point.accuracy for point in of],
                marker,
                color=theme[colour],
                markerfacecolor=theme["paper"] if hollow else theme[colour],
                markersize=4 if marker == "." else 7,
                label=name,
                zorder=2 if marker == "." else 3,
            )
    lowest, highest = (pick(point.accuracy for point in points) for pick in (min, max))
    axes.set_ylim(lowest - 4, highest + 4)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(color=theme["line"], linewidth=0.8)
    axes.set_axisbelow(True)


def glyphs() -> list[Point]:
    """The embedded benchmark, seeds 0 to 2."""
    points = []
    for row in _rows("benchmarks/kinds.json"):
        group = _OF_KINDS.get((row["selection"], row["classifier"]))
        if row["setting"] == "glyphs" and row["kind"] == "none":
            points.append(Point(0, row["average_accuracy_mean"], "nothing tuned", "linear discriminant"))
        elif row["setting"] == "glyphs" and group and row["kind"] in _KINDS:
            name = "C-LN" if (row["kind"], row["selection"]) == ("layernorm", "key") else _KINDS[row["kind"]]
            points.append(Point(row["task_parameters"], row["average_accuracy_mean"], group, name))
    comparison = _read("comparison.json")
    reference = next(row for row in comparison["rows"] if row["name"] == comparison["reference"])
    tuned = reference["metrics"]["task_parameters"]["mean"]
    for row in comparison["rows"]:
        if row["name"] in _VARIANTS:
            accuracy = _of_seeds(row["metrics"]["average_accuracy"]["values"], row["seeds"])
            points.append(Point(row["metrics"]["task_parameters"]["mean"], accuracy, *_VARIANTS[row["name"]]))
    for row in comparison["beside"]:
        if row["row"] in _BESIDE:
            accuracy = _of_seeds(row["accuracy"]["values"], comparison["seeds"])
            points.append(Point(tuned if row["row"] == "c_ln_lda" else 0, accuracy, *_BESIDE[row["row"]]))
    for row in _rows("benchmarks/methods.json"):
        if row["setting"] == "glyphs" and row["method"] in _OF_METHODS:
            points.append(Point(row["task_parameters"], row["average_accuracy_mean"], *_OF_METHODS[row["method"]]))
    control = ("cls_4", "frozen", "class_gaussians")
    for row in _rows("benchmarks/beyond_glyphs.json"):
        if (row["features"], row["selector"], row["classifier"], row["correction"]) == (*control, "none"):
            points.append(Point(0, row["average_accuracy_mean"], *_NAMED[control]))
    return points


def cifar() -> list[Point]:
    """CIFAR-100 with a ViT-Ti/16, seeds 0 to 2, without rows that know the task or correct afterwards."""
    points = []
    for row in _rows("benchmarks/beyond.json"):
        if row["selector"] not in {"oracle", "recomputed"} and row["correction"] == "none":
            configuration = (row["features"], row["selector"], row["classifier"])
            named = _NAMED.get(configuration, ("other selectors and classifiers", ""))
            points.append(Point(row["passes"], row["average_accuracy_mean"], *named))
    frozen = {"frozen": "softmax head", "frozen_ncm": "nearest class mean", "frozen_lda": "linear discriminant"}
    points += [
        Point(1, row["average_accuracy_mean"], "nothing tuned", frozen[row["method"]])
        for row in _rows("benchmarks/cifar100_vit_tiny.json")
        if row["method"] in frozen
    ]
    return points + [
        Point(row["passes"], row["average_accuracy_mean"], *_OF_METHODS[row["method"]])
        for row in _rows("benchmarks/methods.json")
        if row["setting"] == "cifar100_vit_tiny" and tuple(row["seeds"]) == _SEEDS
        if row["method"] in _OF_METHODS.keys() - {"best"}  # which is above already
    ]


def _of_seeds(values: Iterable[float], seeds: Iterable[int]) -> float:
    return 100 * statistics.fmean(value for value, seed in zip(values, seeds, strict=True) if seed in _SEEDS)


def _rows(name: str) -> list[dict[str, Any]]:
    return list(_read(name)["rows"]) if (_REPORTS / name).exists() else []


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_REPORTS / name).read_text(encoding="utf-8"))
    return content
