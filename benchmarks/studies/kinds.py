"""Compares every way to tune: accuracy, costs and seconds of each kind, in one run on one machine.

    python -m benchmarks.studies.kinds                  # the embedded default
    python -m benchmarks.studies.kinds IMAGES WEIGHTS   # CIFAR-100 with ViT-Ti/16: its first five tasks

For each kind, the rate of stage one is chosen first: the one with the best accuracy on a held-out fifth of the training
images of the first tasks, with seed 0. Where the best of the rates is the slowest or the fastest, the next beyond it
is tried, too. Then the ordinary pipeline runs with each seed, once with the paper's selection
and once with the strongest one-model configuration that the kind allows. What has been measured stays in `.scratch/`.
So an interrupted benchmark continues. Both settings together make reports/benchmarks/kinds.md and .json.
"""

import json
import statistics
import time
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.speed.ratios import machine_name
from benchmarks.studies.cifar100_vit_tiny import params_of
from harness.clone import ROOT, clone, configure, run_dvc, run_plan
from pipeline.data.images import Images
from pipeline.evaluation import metrics
from pipeline.inference.learner import load_learner
from pipeline.inference.manifest import read_manifest
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = Path("reports/benchmarks/kinds")
NUM_TASKS, NUM_TASKS_CHOICE = 5, 3
SEEDS = (0, 1, 2)
# The rates that are tried for each kind, and whether the mean over tasks makes one model.
KINDS: dict[str, tuple[tuple[float, ...], bool]] = {
    "layernorm": ((0.0025, 0.005, 0.01), True),
    "ia3": ((0.005, 0.01, 0.02), True),
    "lora": ((0.001, 0.003, 0.01), True),
    "apt": ((0.001, 0.003, 0.01), True),
    "diff_pruning": ((0.003, 0.01, 0.03), True),
    "synqt": ((0.003, 0.01, 0.03), False),
}
PAPER = {"selection": "query", "classifier": "softmax"}
SELECTIONS = {"key": PAPER, "mean": {"selection": "average", "classifier": "carried_gaussians"}}
Measured = dict[str, Any]


class Kept:
    """Measurements by name, in a file."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one."""
        self.path = path
        self.values: dict[str, Measured] = json.loads(path.read_text()) if path.exists() else {}

    def __contains__(self, name: str) -> bool:
        """Whether this has been measured."""
        return name in self.values

    def keep(self, name: str, value: Measured) -> None:
        """Write one more measurement."""
        self.values[name] = value
        artifacts.save_plain_json(self.path, self.values)


def run_kind(folder: Path, **changes: Any) -> Measured:  # noqa: ANN401
    """One run of the pipeline: metrics of each row, seconds of stage one and of inference per 1,000 images."""
    configure(folder, **changes)
    last = f"t{changes['num_tasks']}"
    run_dvc(folder, "repro", "keys")
    started = time.monotonic()
    run_dvc(folder, "repro", f"stage_one@{last}")
    tuned = time.monotonic()
    run_dvc(folder, "repro", "evaluate")
    evaluation = json.loads((folder / artifacts.EVALUATION).read_text())
    return {
        "metrics": evaluation["metrics"],
        "matrices": evaluation["matrices"],
        "frozen_gflop": evaluation["backbone"]["flops_per_pass"] / 1e9,
        "train_seconds": tuned - started,
        "inference_seconds": inference_seconds(folder),
    }


def inference_seconds(folder: Path, count: int = 500) -> float:
    """Seconds to predict 1,000 images with the finished learner, without start and decoding."""
    with chdir(folder):
        manifest = read_manifest()
        learner = load_learner(manifest.settings, manifest.tasks)
        images = Images.from_tensors(artifacts.load_tensors(artifacts.TEST))[torch.arange(count)]
        learner.predict(images[torch.arange(64)])
        started = time.monotonic()
        learner.predict(images)
        return (time.monotonic() - started) * 1000 / count


def tried_rates(kept: Kept, kind: str) -> dict[float, float]:
    """Each rate of a kind that was tried, slowest first, and its accuracy (%) on held-out training images."""
    start = f"rate {kind} "
    tried = {float(name.removeprefix(start)): run for name, run in kept.values.items() if name.startswith(start)}
    return {rate: 100 * tried[rate]["metrics"]["average_accuracy"] for rate in sorted(tried)}


def choose_rate(folder: Path, kept: Kept, kind: str) -> float:
    """The rate of a kind that is best on held-out training images, with a slower and a faster one beside it."""
    rates = list(KINDS[kind][0])
    while True:
        for rate in rates:
            name = f"rate {kind} {rate}"
            if name not in kept:
                changes = {"num_tasks": NUM_TASKS_CHOICE, "evaluate_on": "validation", "seed": 0}
                kept.keep(name, run_kind(folder, tuning=kind, lr=rate, **changes, **PAPER))
        tried = tried_rates(kept, kind)
        slowest, *between, fastest = tried
        best = max([*between, slowest, fastest], key=lambda rate: tried[rate])  # of equals, one between
        if best not in (slowest, fastest):
            return best
        rates = [slowest / 2 if best == slowest else fastest * 2]


def measure(folder: Path, rates: dict[str, float], kept: Kept) -> None:
    """Every kind, selection and seed. Kinds are measured one after another for each seed."""
    for seed in SEEDS:
        for kind, rate in rates.items():
            for selection, changes in SELECTIONS.items():
                name = f"{kind} {rate} {selection} {seed}"
                if name in kept or (selection == "mean" and not KINDS[kind][1]):
                    continue
                whole = {"num_tasks": NUM_TASKS, "evaluate_on": "test", "tuning": kind, "lr": rate, "seed": seed}
                kept.keep(name, run_kind(folder, **whole, **changes))


def rows_of(kept: Kept, rates: dict[str, float], setting: str) -> list[Measured]:
    """The rows of the table: each kind with each selection and classifier."""
    rows = []
    for kind, rate in rates.items():
        keyed = [kept.values[f"{kind} {rate} key {seed}"] for seed in SEEDS]
        rows += [_row(keyed, "c_ln", kind=kind, selection="key", classifier="softmax")]
        if KINDS[kind][1]:
            averaged = [kept.values[f"{kind} {rate} mean {seed}"] for seed in SEEDS]
            for run, trained in zip(averaged, keyed, strict=True):
                run["train_seconds"] = trained["train_seconds"]  # both runs share stage one
            rows += [_row(averaged, "c_ln", kind=kind, selection="mean", classifier="carried_gaussians")]
        else:
            rows += [_row(keyed, "c_ln_lda", kind=kind, selection="key", classifier="lda")]
        rows += [_row(keyed, "oracle", kind=kind, selection="true task", classifier="softmax")]
        for row in rows[-3:]:
            row |= {"lr": rate, "setting": setting}
    frozen = [kept.values[f"layernorm {rates['layernorm']} key {seed}"] for seed in SEEDS]
    row = _row(frozen, "frozen_lda", kind="none", selection="none", classifier="lda")
    free = {"task_parameters": 0, "bytes_per_task": None, "train_seconds": 0.0, "inference_seconds": None}
    frozen_cost = {"passes": 1.0, "gflop": round(frozen[0]["frozen_gflop"], 4), "lr": None, "setting": setting}
    return [*rows, row | free | frozen_cost]


def _row(runs: list[Measured], method: str, **names: str) -> Measured:
    """Mean over seeds of one row of the runs."""
    accuracies = [100 * statistics.fmean(run["matrices"][method][-1]) for run in runs]
    forgetting = [100 * metrics.forgetting(metrics.square(run["matrices"][method])) for run in runs]
    first = runs[0]["metrics"]
    known = names["selection"] == "true task"  # then no query is needed
    query = known and first["passes_at_inference"] > 1
    return names | {
        "average_accuracy_mean": round(statistics.fmean(accuracies), 2),
        "average_accuracy_std": round(statistics.stdev(accuracies), 2),
        "forgetting_mean": round(statistics.fmean(forgetting), 2),
        "task_parameters": int(first["task_parameters"]),
        "bytes_per_task": round(statistics.fmean(run["metrics"]["bytes_per_task"] for run in runs)),
        "passes": first["passes_at_inference"] - int(query),
        "gflop": round(first["gflop_at_inference"] - query * runs[0]["frozen_gflop"], 4),
        "train_seconds": round(statistics.median(run["train_seconds"] for run in runs), 1),
        "inference_seconds": None if known else round(statistics.median(r["inference_seconds"] for r in runs), 2),
        "seeds": list(SEEDS),
    }


def page(report: Measured) -> str:
    """The result in Markdown."""
    parts = ["# Kinds of tuning, compared", ""]
    for setting, facts in report["settings"].items():
        rows = [row for row in report["rows"] if row["setting"] == setting]
        names = ("tuned", "selection", "classifier", "accuracy (%)", "forgetting", "numbers per task", "bytes per task")
        costs = ("passes", "GFLOP", "training (s)", "inference (s)")
        body = [
            (
                row["kind"],
                row["selection"],
                row["classifier"],
                f"{row['average_accuracy_mean']:.1f} ± {row['average_accuracy_std']:.1f}",
                f"{row['forgetting_mean']:.1f}",
                f"{row['task_parameters']:,}",
                "" if row["bytes_per_task"] is None else f"{row['bytes_per_task']:,}",
                f"{row['passes']:.0f}",
                f"{row['gflop']:.3f}",
                f"{row['train_seconds']:.0f}",
                "" if row["inference_seconds"] is None else f"{row['inference_seconds']:.1f}",
            )
            for row in rows
        ]
        parts += [f"## {facts['title']}", "", facts["protocol"], "", table((*names, *costs), body), ""]
        tried = [
            (kind, ", ".join(f"{rate:g}: {accuracy:.1f}" for rate, accuracy in of))
            for kind, of in facts["rates"].items()
        ]
        parts += [table(("tuned", "rate of stage one: accuracy (%) on held-out images"), tried), ""]
    return "\n".join(parts)


def main(
    images: Annotated[Path | None, typer.Argument(help="CIFAR-100: folder train/CLASS/*, test/CLASS/*.")] = None,
    weights: Annotated[Path | None, typer.Argument(help="Weights of vit_tiny_patch16_224.")] = None,
) -> None:
    """Choose rates, run every kind with every seed, and write the table of both settings."""
    setting = "cifar100" if images and weights else "glyphs"
    title = "CIFAR-100, ViT-Ti/16 at 96 px" if images and weights else "glyphs, glyph_vit (the embedded default)"
    folder = clone(f"kinds_{setting}")
    kept = Kept(folder.with_suffix(".json"))
    configure(folder, **(params_of(images, weights) if images and weights else {}))
    run_plan(folder, NUM_TASKS)
    rates = {kind: choose_rate(folder, kept, kind) for kind in KINDS}
    measure(folder, rates, kept)
    path = (ROOT / RESULT).with_suffix(".json")
    report: Measured = json.loads(path.read_text()) if path.exists() else {"rows": [], "settings": {}}
    others = [row for row in report["rows"] if row["setting"] != setting]
    first = kept.values[f"layernorm {rates['layernorm']} key 0"]["metrics"]
    report["rows"] = [*others, *rows_of(kept, rates, setting)]
    report["settings"][setting] = {
        "title": title,
        "protocol": (
            f"{NUM_TASKS} tasks of 10 classes, {first['training_images']:,} training and {first['test_images']:,} "
            f"test images, seeds {', '.join(map(str, SEEDS))}. {machine_name()}, {torch.get_num_threads()} thread. "
            "Training: seconds of stage one for all tasks. Inference: seconds per 1,000 images. Both are medians over "
            "the seeds, since other work ran on the second core. Rates were chosen with "
            f"seed 0 and {NUM_TASKS_CHOICE} tasks on a held-out fifth of the training images."
        ),
        "rates": {
            kind: [(rate, round(accuracy, 1)) for rate, accuracy in tried_rates(kept, kind).items()] for kind in KINDS
        },
    }
    artifacts.save_plain_json(path, report)
    artifacts.save_bytes(path.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
