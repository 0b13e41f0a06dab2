"""Fewer epochs for the same accuracy: what stage one's schedule costs and gives, on held-out training images.

    python -m benchmarks.schedule                   # the embedded default
    python -m benchmarks.schedule IMAGES WEIGHTS    # the first five tasks of benchmarks.cifar100_vit_tiny

Every schedule of `SCHEDULES` with every seed: the stages of the pipeline, called one after the other in a clone of the
last commit. Test images take no part: `evaluate_on: validation`. Writes reports/benchmarks/schedule*.{md,json}.
"""

import io
import statistics
import time
from collections.abc import Mapping
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cifar100_vit_tiny import NUM_TASKS_CHOICE, PARAMS
from benchmarks.clone import ROOT, clone, configure, run_dvc, run_plan
from benchmarks.ratios import machine_name
from benchmarks.stage_order import run_stage
from pipeline import artifacts
from pipeline.report import table
from pipeline.tasks import task_name

# lr and batch_size count in those of the first, the paper's, which was chosen on the same held-out images.
SCHEDULES: list[dict[str, Any]] = [
    {"epochs": 5, "batch_size": 1, "lr": 1},
    *({"epochs": 2, "batch_size": 1, "lr": lr} for lr in (1, 2)),
    *({"epochs": 2, "batch_size": size, "lr": lr} for size in (1 / 2, 1 / 4) for lr in (1 / 2, 1)),
    {"epochs": 1, "batch_size": 1 / 4, "lr": 1 / 2},
]


def run_stages(folder: Path, num_tasks: int) -> dict[str, float]:
    """Stage one and what follows: average accuracy in percent, and the seconds of stage one."""
    tasks = [task_name(task) for task in range(num_tasks)]
    with chdir(folder), redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        for task in tasks:
            run_stage("stage_one", task)
        seconds = time.perf_counter() - started
        for stage in ("features", "stage_two"):
            for task in tasks:
                run_stage(stage, task)
        for stage in ("rematch", "evaluate"):
            run_stage(stage)
        return {
            "accuracy": 100 * artifacts.load_json(artifacts.EVALUATION)["metrics"]["average_accuracy"],
            "seconds": seconds,
        }


def absolute(schedule: Mapping[str, Any], paper: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a schedule."""
    batch_size = round(schedule["batch_size"] * paper["batch_size"])
    return {**schedule, "lr": schedule["lr"] * paper["lr"], "batch_size": batch_size}


def page(report: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    rows = [
        (
            ", ".join(f"{name}: {value}" for name, value in row["schedule"].items()),
            f"{row['accuracy_mean']:.1f} ± {row['accuracy_std']:.1f}",
            f"{row['difference']:+.1f}",
            f"{row['ratio']:.2f}",
        )
        for row in report["rows"]
    ]
    return f"""\
# Schedules of stage one: {report["title"]}

Average accuracy of C-LN on held-out training images, seeds {", ".join(map(str, report["seeds"]))}; the difference to
the first row, the paper's schedule; and the seconds of stage one as a share of its seconds. {report["machine"]}.

{table(("schedule", "accuracy (%)", "difference", "time"), rows)}
"""


def main(
    images: Annotated[Path | None, typer.Argument(help="Folder train/CLASS/*, test/CLASS/*.")] = None,
    weights: Annotated[Path | None, typer.Argument(help="Weights of vit_tiny_patch16_224.")] = None,
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
) -> None:
    """Run every schedule with every seed and write the table."""
    title, name, num_tasks, changes = "glyphs, glyph_vit", "schedule", 5, {"lr": 0.01, "batch_size": 64}
    if images and weights:
        title, name, num_tasks = "CIFAR-100, ViT-Ti/16 at 96 px", "schedule_cifar100", NUM_TASKS_CHOICE
        changes = PARAMS | {"data_dir": str(images.resolve()), "backbone_weights": str(weights.resolve())}
    folder = clone(name)
    configure(folder, **changes, evaluate_on="validation")
    run_plan(folder, num_tasks)
    results: list[list[dict[str, float]]] = [[] for _ in SCHEDULES]
    for seed in map(int, seeds.split(",")):
        configure(folder, seed=seed)
        run_dvc(folder, "repro", "keys", "objective")
        for schedule, of_schedule in zip(SCHEDULES, results, strict=True):
            configure(folder, **absolute(schedule, changes))
            of_schedule.append(run_stages(folder, num_tasks))
            print(seed, schedule, of_schedule[-1], flush=True)
    accuracy = [[result["accuracy"] for result in of_schedule] for of_schedule in results]
    seconds = [sum(result["seconds"] for result in of_schedule) for of_schedule in results]
    rows = [
        {
            "schedule": absolute(schedule, changes),
            "accuracy_mean": round(statistics.fmean(values), 2),
            "accuracy_std": round(statistics.stdev(values), 2) if len(values) > 1 else 0.0,
            "accuracies": [round(value, 2) for value in values],
            "difference": round(statistics.fmean(values) - statistics.fmean(accuracy[0]), 2),
            "ratio": round(took / seconds[0], 3),
        }
        for schedule, values, took in zip(SCHEDULES, accuracy, seconds, strict=True)
    ]
    machine = machine_name()
    report = {"rows": rows, "title": title, "seeds": [int(seed) for seed in seeds.split(",")], "machine": machine}
    result = ROOT / f"reports/benchmarks/{name}.json"
    artifacts.save_plain_json(result, report)
    artifacts.save_bytes(result.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
