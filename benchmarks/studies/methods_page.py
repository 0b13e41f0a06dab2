"""The page of benchmarks.studies.methods: tables, two figures, and what they say about the paper's claim."""

import json
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
INTRO = """\
The paper claims to be superior to or on par with the state of the art while computationally cheaper. C-LN as published
counts as superior or inferior here where every seed says so; costs are multiples of its own."""
Row = Mapping[str, Any]


def with_other_settings(report: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The report, with what the page already says about settings that it does not have."""
    file = path.with_suffix(".json")
    before = json.loads(file.read_bytes()) if file.exists() else {"rows": [], "rates": {}}
    now = {row["setting"] for row in report["rows"]}
    rows = [row for row in before["rows"] if row["setting"] not in now] + report["rows"]
    rates = {key: rate for key, rate in before["rates"].items() if key.split()[0] not in now} | report["rates"]
    return {**report, "rows": sorted(rows, key=lambda row: list(SETTINGS).index(row["setting"])), "rates": rates}


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the page, its numbers and its figures beside each other. path: without ending."""
    artifacts.save_plain_json(path.with_suffix(".json"), report)
    parts = [
        "# C-LN and other methods, in one harness",
        f"Same images, order of classes, backbone and machine ({report['machine']}). A method is a preset of\n"
        "`presets/methods`, which names its source and what differs. Every rate was chosen with seed 0 on a held-out\n"
        f"fifth of the training images of the first tasks, among {report['trials']} per method, and beyond them while\n"
        "the best was the slowest or the fastest. A rate at which training diverges counts as 0 %. Of the rates as\n"
        "good as the best, within one standard error, the closest to the published one was taken.\n"
        "Training: all stages that learn, and their passes over the training images. Evaluation: the finished learner\n"
        "predicts every test image once. Seconds are those of the processor; with a GPU, those that pass. Trained\n"
        "numbers leave out the heads.",
    ]
    for setting in dict.fromkeys(row["setting"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["setting"] == setting]
        parts += [
            f"## {SETTINGS[setting]}, {seeds_of(rows)}",
            table(HEADER, [cells(row) for row in rows]),
            claim(rows),
        ]
        tried = [(NAMES[row["method"]], *rate_of(report["rates"], setting, row["method"])) for row in rows]
        parts.append(table(("method", "chosen `lr`", "held-out accuracy (%) at each `lr`"), tried))
        for key, label in (("task_parameters", "trained numbers per task"), ("train_seconds", "seconds of training")):
            figure = path.with_name(f"{path.name}_{setting}_{key}.png")
            scatter(rows, key, label).savefig(figure, dpi=150, bbox_inches="tight", metadata={"Software": None})
            parts.append(f"![Average accuracy against {label}]({figure.name})")
    artifacts.save_bytes(path.with_suffix(".md"), ("\n\n".join(parts) + "\n").encode())


def seeds_of(rows: Sequence[Row]) -> str:
    """The seeds of a table, in words."""
    seeds = rows[0]["seeds"]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    return (
        NAMES[row["method"]],
        f"{row['average_accuracy_mean']:.1f}"
        + (f" ± {row['average_accuracy_std']:.1f}" if len(row["seeds"]) > 1 else ""),
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
    after = [name for name in of if name not in (*OURS, *BEFORE)]
    against = ("methods", "C-LN's accuracy", "their trained numbers", "their training", "their operations per image")
    return "\n\n".join(
        [
            INTRO,
            table(against, [compared(of["c_ln"], of[name]) for name in (*BEFORE, *after) if name in of]),
            f"So, against methods before it: {summary(of, BEFORE)}. Against methods after it: {summary(of, after)}.",
        ]
    )


def differences(ours: Row, row: Row) -> list[float]:
    """Points by which C-LN is above, per seed."""
    return [a - b for a, b in zip(ours["average_accuracies"], row["average_accuracies"], strict=True)]


def compared(ours: Row, row: Row) -> tuple[str, ...]:
    """What another method reaches and costs, beside C-LN."""
    gains = differences(ours, row)
    ratios = (row[key] / ours[key] for key in ("task_parameters", "train_seconds", "gflop"))
    points = f"{statistics.fmean(gains):+.1f} ({', '.join(f'{gain:+.1f}' for gain in gains)})"
    return NAMES[row["method"]], points, *(f"{ratio:.1f} x" for ratio in ratios)


def summary(of: Mapping[str, Row], names: Sequence[str]) -> str:
    """Which of these methods C-LN is superior to, on par with, inferior to."""
    groups: dict[str, list[str]] = {"superior to": [], "on par with": [], "inferior to": []}
    for name in (name for name in names if name in of):
        gains = differences(of["c_ln"], of[name])
        verdict = "superior to" if min(gains) > 0 else "inferior to" if max(gains) < 0 else "on par with"
        groups[verdict].append(NAMES[name])
    return "; ".join(f"{verdict} {', '.join(members)}" for verdict, members in groups.items() if members)


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
