"""The page of benchmarks.studies.methods: tables, two figures, and what they say about the paper's claim."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.report.text import table
from pipeline.store import artifacts

NAMES = {
    "c_ln": "C-LN",
    "best": "C-LN, preset best",
    "best_photographs": "C-LN, preset best_photographs",
    "simplecil": "SimpleCIL",
    "fecam": "FeCAM",
    "l2p": "L2P",
    "dualprompt": "DualPrompt",
    "coda_prompt": "CODA-Prompt",
    "slca": "SLCA",
    "ranpac": "RanPAC",
    "aper": "APER",
    "ease": "EASE",
}
SETTINGS = {"glyphs": "Glyphs, the embedded ViT", "cifar100_vit_tiny": "CIFAR-100, ViT-Ti/16 at 96 pixels"}
OURS = ("c_ln", "best", "best_photographs")
BEFORE = ("l2p", "dualprompt", "coda_prompt")  # the state of the art that the paper compares itself with
HEADER = (
    "method",
    "average accuracy (%)",
    "forgetting (points)",
    "trained numbers per task",
    "bytes per task",
    "passes",
    "GFLOP per image",
    "training (s)",
    "evaluation (s)",
    "peak memory (MiB)",
)
Row = Mapping[str, Any]


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over seeds; 0 for a single seed."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the page, its numbers and its figures beside each other. path: without ending."""
    artifacts.save_plain_json(path.with_suffix(".json"), report)
    parts = [
        "# C-LN and other methods, in one harness",
        f"Same images, order of classes, backbone and machine ({report['machine']}). A method is a preset of\n"
        "`presets/methods`, which names its source and what differs. Every rate was chosen with seed 0 on a held-out\n"
        f"fifth of the training images of the first tasks, among {report['trials']} per method, and beyond them while\n"
        "the best was the slowest or the fastest; a method that tunes nothing has none.\n"
        "Training: all stages that learn, and their passes over the training images. Evaluation: the finished learner\n"
        "predicts every test image once. Trained numbers leave out the heads.",
    ]
    for setting in dict.fromkeys(row["setting"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["setting"] == setting]
        parts += [f"## {SETTINGS[setting]}", table(HEADER, [cells(row) for row in rows]), claim(rows)]
        tried = [(NAMES[row["method"]], *rate_of(report["rates"], setting, row["method"])) for row in rows]
        parts.append(table(("method", "chosen `lr`", "held-out accuracy (%) at each `lr`"), tried))
        for key, label in (("task_parameters", "trained numbers per task"), ("train_seconds", "seconds of training")):
            figure = path.with_name(f"{path.name}_{setting}_{key}.png")
            scatter(rows, key, label).savefig(figure, dpi=150, bbox_inches="tight", metadata={"Software": None})
            parts.append(f"![Average accuracy against {label}]({figure.name})")
    artifacts.save_bytes(path.with_suffix(".md"), ("\n\n".join(parts) + "\n").encode())


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    return (
        NAMES[row["method"]],
        f"{row['average_accuracy_mean']:.1f} ± {row['average_accuracy_std']:.1f}",
        f"{row['forgetting_mean']:.1f}",
        f"{row['task_parameters']:,}",
        f"{row['bytes_per_task']:,}",
        f"{row['passes']:g}",
        f"{row['gflop']:.3g}",
        f"{row['train_seconds']:.1f}",
        f"{row['evaluate_seconds']:.1f}",
        f"{row['peak_memory_bytes'] / 2**20:,.0f}",
    )


def rate_of(rates: Mapping[str, Any], setting: str, name: str) -> tuple[str, str]:
    """The rate of a method, and what it was chosen from."""
    rate = rates[f"{setting} {name}"]
    tried = ", ".join(f"{lr}: {accuracy:.1f}" for lr, accuracy in rate["tried"].items())
    return (f"{rate['lr']:g}", tried) if tried else ("", "tunes nothing")


def claim(rows: Sequence[Row]) -> str:
    """Where C-LN as published is superior or on par, and cheaper, and where it is not."""
    of = {row["method"]: row for row in rows}
    if "c_ln" not in of:
        return ""
    ours, sentences = of["c_ln"], []
    for group, title in (
        (BEFORE, "before"),
        (tuple(name for name in of if name not in (*OURS, *BEFORE)), "after"),
    ):
        for row in (of[name] for name in group if name in of):
            gain = ours["average_accuracy_mean"] - row["average_accuracy_mean"]
            spread = max(1.0, ours["average_accuracy_std"] + row["average_accuracy_std"])
            better = (
                "on par with" if abs(gain) <= spread else f"{abs(gain):.1f} points {'above' if gain > 0 else 'below'}"
            )
            costs = [
                f"{row[key] / max(ours[key], 1e-9):.2g} times the {what}"
                for key, what in (("task_parameters", "trained numbers"), ("train_seconds", "training time"))
            ]
            costs.append(f"{row['gflop'] / ours['gflop']:.2g} times the operations per image")
            sentences.append(
                f"C-LN is {better} {NAMES[row['method']]} (of {title} it), which takes {', '.join(costs)}."
            )
    intro = (
        "The paper claims to be superior to or on par with the state of the art while computationally cheaper. Here:"
    )
    return " ".join([intro, *sentences]).replace("(of before it)", "(earlier)").replace("(of after it)", "(later)")


def scatter(rows: Sequence[Row], key: str, label: str) -> Figure:
    """Accuracy against a cost, one named point per method."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    for row in rows:
        is_ours = row["method"] in ("c_ln", "best")
        axes.errorbar(
            row[key],
            row["average_accuracy_mean"],
            yerr=row["average_accuracy_std"],
            fmt="o",
            color="#0b6e99" if is_ours else "#8a8f98",
        )
        point = (row[key], row["average_accuracy_mean"])
        axes.annotate(NAMES[row["method"]], point, xytext=(5, 4), textcoords="offset points", fontsize=8)
    least = min((row[key] for row in rows if row[key] > 0), default=1)
    axes.set_xscale("symlog", linthresh=least)
    axes.set_xlim(left=0)
    axes.set(xlabel=label, ylabel="average accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
