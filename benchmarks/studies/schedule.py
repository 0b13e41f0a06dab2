"""Compares schedules of stage one by accuracy and time on held-out training images: do fewer epochs suffice?

    python -m benchmarks.studies.schedule                   # the embedded default
    python -m benchmarks.studies.schedule IMAGES WEIGHTS    # the first five tasks of cifar100_vit_tiny.py

Every schedule of `SCHEDULES` runs with every seed: the stages of the pipeline one after the other in a clone of the
last commit. Test images take no part (`evaluate_on: validation`). Writes reports/benchmarks/schedule*.{md,json}.
"""

import io
import statistics
from collections.abc import Mapping
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.speed.ratios import machine_name, seconds
from benchmarks.studies.cifar100_vit_tiny import NUM_TASKS_CHOICE, params_of
from benchmarks.studies.over_seeds import mean_and_std
from harness import stage_order
from harness.clone import ROOT, clone, configure, run_dvc, run_plan
from pipeline.params import read_mapping
from pipeline.report.text import table
from pipeline.store import artifacts

# On top of the data set's own lr and batches of 64. The first is the paper's; its lr was chosen on held-out images.
SCHEDULES: list[dict[str, Any]] = [
    {"epochs": 5},
    {"epochs": 2},
    {"epochs": 2, "batch_size": 32, "lr": 0.005},
    read_mapping(ROOT / "presets/fast.yaml"),
    {"epochs": 1, "batch_size": 8, "lr": 0.005},
]


def run_stages(folder: Path, num_tasks: int, best: Mapping[str, Any]) -> dict[str, float]:
    """Accuracies in percent, of C-LN and with the classifier of a preset, and the seconds of stage one."""

    def accuracy() -> float:
        stage_order.run_stages(num_tasks, stage_order.AFTER_LAYERNORMS)
        return 100 * float(artifacts.load_json(artifacts.EVALUATION)["metrics"]["average_accuracy"])

    with chdir(folder), redirect_stdout(io.StringIO()):
        took = seconds(lambda: stage_order.run_stages(num_tasks, {"stage_one"}))
        plain = accuracy()
        configure(folder, **best)
        return {"accuracy": plain, "best": accuracy(), "seconds": took}


def statistics_of(
    key: str, of_seeds: list[dict[str, float]], first: list[dict[str, float]], prefix: str
) -> dict[str, float]:
    """Mean and standard deviation over the seeds, and the mean difference from the first schedule."""
    values = [of[key] for of in of_seeds]
    differences = [value - of[key] for value, of in zip(values, first, strict=True)]
    return {
        f"{prefix}mean": round(statistics.fmean(values), 2),
        f"{prefix}std": round(mean_and_std(values)[1], 2),
        f"{prefix}difference": round(statistics.fmean(differences), 2),
    }


def page(report: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    rows = [
        (
            ", ".join(f"{name}: {value}" for name, value in row["schedule"].items()),
            f"{row['mean']:.1f} ± {row['std']:.1f}",
            f"{row['difference']:+.1f}",
            f"{row['best_mean']:.1f} ± {row['best_std']:.1f}",
            f"{row['best_difference']:+.1f}",
            f"{row['ratio']:.2f}",
        )
        for row in report["rows"]
    ]
    return f"""\
# Schedules of stage one: {report["title"]}

Average accuracy on held-out training images, seeds {", ".join(map(str, report["seeds"]))}, of C-LN and with
`presets/{report["best"]}`; differences from the first row, the paper's schedule; and the seconds of stage one as a
share of those in the first row. {report["machine"]}.

{table(("schedule", "C-LN (%)", "difference", report["best"] + " (%)", "difference", "time"), rows)}
"""


def main(
    images: Annotated[Path | None, typer.Argument(help="Folder train/CLASS/*, test/CLASS/*.")] = None,
    weights: Annotated[Path | None, typer.Argument(help="Weights of vit_tiny_patch16_224.")] = None,
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
) -> None:
    """Run every schedule with every seed and write the table."""
    title, name, best, changes = "glyphs, glyph_vit", "schedule", "best_domains", {}
    if images and weights:
        title, name, best = "CIFAR-100, ViT-Ti/16 at 96 px", "schedule_cifar100", "best"
        changes = params_of(images, weights)
    folder = clone(name)
    preset = read_mapping(ROOT / f"presets/{best}.yaml")
    default = read_mapping(ROOT / "params.yaml")
    plain = {key: default[key] for key in {*preset, *SCHEDULES[-1]}} | changes | {"evaluate_on": "validation"}
    results: list[list[dict[str, float]]] = [[] for _ in SCHEDULES]
    for seed in map(int, seeds.split(",")):
        configure(folder, **plain, seed=seed)
        run_plan(folder, NUM_TASKS_CHOICE)
        run_dvc(folder, "repro", "keys")
        for schedule, of_schedule in zip(SCHEDULES, results, strict=True):
            configure(folder, **plain | schedule)
            of_schedule.append(run_stages(folder, NUM_TASKS_CHOICE, preset))
            print(seed, schedule, of_schedule[-1], flush=True)
    rows = [
        {
            "schedule": {key: (plain | schedule)[key] for key in SCHEDULES[-1]},
            "ratio": round(sum(of["seconds"] for of in of_seeds) / sum(of["seconds"] for of in results[0]), 3),
            **statistics_of("accuracy", of_seeds, results[0], prefix=""),
            **statistics_of("best", of_seeds, results[0], prefix="best_"),
        }
        for schedule, of_seeds in zip(SCHEDULES, results, strict=True)
    ]
    machine = machine_name()
    report = {
        "rows": rows,
        "title": title,
        "best": best,
        "seeds": [int(seed) for seed in seeds.split(",")],
        "machine": machine,
    }
    result = ROOT / f"reports/benchmarks/{name}.json"
    artifacts.save_plain_json(result, report)
    artifacts.save_bytes(result.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
