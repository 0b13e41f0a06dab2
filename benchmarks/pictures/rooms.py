"""The rooms of the library: the layers that `make check` enforces, with the first sentence of each docstring."""

import ast
import re
import textwrap
import tomllib
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from benchmarks.pictures.style import Theme
from harness.root import ROOT

_GAP = 0.012  # between boxes
_COMMANDS = {"pipeline.__main__": "python -m pipeline", "pipeline.dvc": "python -m pipeline.dvc"}
_LETTER = 1 / 150  # width of a letter, as a share of the picture


def layers() -> list[list[str]]:
    """Modules by layer, from the top. A module imports only from layers below its own."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    declared = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [["stages"], *(layer.split(" | ") for layer in declared)]


def sentence(module: str) -> str:
    """The first sentence of a module's docstring."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else Path(f"{path}.py")
    told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(told.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def fitting(told: str, letters: int) -> str:
    """The sentence in at most two lines of so many letters; a longer one ends at an earlier colon or comma."""
    while len(textwrap.wrap(told, letters)) > 2 and re.search("[:;,]", told):
        told = re.split("[:;,](?!.*[:;,])", told)[0]
    return "\n".join(textwrap.wrap(told, letters)[:2])


def draw(theme: Theme) -> Figure:
    """One row of boxes per layer."""
    rows = layers()
    figure = Figure(figsize=(9.6, 0.66 * len(rows)))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, 1), ylim=(1, 0))
    axes.axis("off")
    step = 1 / len(rows)
    for index, modules in enumerate(rows):
        width = (0.94 - _GAP * (len(modules) - 1)) / len(modules)
        for column, module in enumerate(modules):
            left, top = 0.05 + column * (width + _GAP), index * step + 0.006
            axes.add_patch(
                FancyBboxPatch(
                    (left, top),
                    width,
                    step - 0.012,
                    boxstyle="round,pad=0,rounding_size=0.006",
                    facecolor=theme["box"],
                    edgecolor=theme["line"],
                )
            )
            name = _COMMANDS.get(module, module.removeprefix("pipeline."))
            middle = left + width / 2
            axes.text(middle, top + 0.009, name, ha="center", va="top", fontsize=9, weight="bold", color=theme["blue"])
            lines = fitting(sentence(module), int(width / _LETTER))
            axes.text(
                middle, top + 0.029, lines, ha="center", va="top", fontsize=7, color=theme["ink"], linespacing=1.1
            )
    axes.annotate(
        "", (0.022, 0.99), (0.022, 0.02), arrowprops={"arrowstyle": "-|>", "color": theme["muted"], "linewidth": 1.5}
    )
    axes.text(0.008, 0.5, "imports only what lies below", rotation=90, ha="center", va="center", fontsize=8)
    return figure
