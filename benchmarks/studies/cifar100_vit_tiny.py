"""Measures the paper's rows on real images with a real pretrained ViT: CIFAR-100 with ViT-Ti/16, several seeds.

    python -m benchmarks.studies.cifar100_vit_tiny IMAGES WEIGHTS

IMAGES is a folder train/CLASS/*, test/CLASS/*; WEIGHTS are those of timm's vit_tiny_patch16_224. The ordinary pipeline
runs in a clone of the last commit under `.scratch/`, once per seed. An interrupted benchmark continues where it
stopped, since DVC caches every stage there (seconds then count only the rest). Writes the result to
reports/benchmarks/.

    python -m benchmarks.studies.cifar100_vit_tiny IMAGES WEIGHTS --choose lr=0.0025,0.005

compares values of one parameter instead, by the accuracy on a held-out fifth of the training images, and adds its table
to reports/benchmarks/cifar100_vit_tiny_validation.md. Test images take no part in a choice.

    python -m benchmarks.studies.cifar100_vit_tiny IMAGES WEIGHTS --compare

runs the variants and seeds of sweeps/cifar100_vit_tiny.yaml through DVC's queue, and writes
reports/benchmarks/cifar100_vit_tiny_comparison.md and .json.
"""

import hashlib
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from benchmarks.speed.ratios import machine_name
from benchmarks.studies.over_seeds import mean_and_std
from harness.clone import ROOT, clone, configure, run, run_dvc, run_plan
from pipeline.evaluation import metrics
from pipeline.evaluation.methods import METHODS, verdict
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = Path("reports/benchmarks/cifar100_vit_tiny")
CHOICES = Path("reports/benchmarks/cifar100_vit_tiny_validation.json")
# Clean images for keys and head; lr and classifier_lr as chosen on held-out training images by --choose.
PARAMS: dict[str, Any] = {
    "dataset": "image_folder",
    "classes_per_task": 10,
    "evaluate_on": "test",
    "backbone": "vit_tiny_patch16_224",
    "image_size": 96,
    "normalize": "pretrained",
    "batch_size": 64,
    "lr": 0.005,
    "epochs": 5,
    "min_crop": 1.0,
    "flip": True,
    "classifier_lr": 0.005,
    "classifier_batch_size": 64,
    "classifier_epochs": 15,
}
_CLASSES = "fbe8ad23bbaf2496"  # SHA-256 of the sorted names of CIFAR-100's classes, the beginning
NUM_TASKS = 10
NUM_TASKS_CHOICE = 5  # the first tasks, where values of a parameter are compared


def params_of(images: Path, weights: Path) -> dict[str, Any]:
    """`PARAMS` with the paths of the images and weights. Exits if the images are not CIFAR-100."""
    names = "\n".join(sorted(path.name for path in images.glob("train/*") if path.is_dir()))
    if hashlib.sha256(names.encode()).hexdigest()[:16] != _CLASSES:
        raise SystemExit(
            f"{images}: train/ does not have the 100 classes of CIFAR-100, whose pages this would overwrite: "
            "`python -m benchmarks.studies.beyond --params FILE` takes any images"
        )
    return PARAMS | {"data_dir": str(images.resolve()), "backbone_weights": str(weights.resolve())}


def measure(folder: Path, seed: int) -> dict[str, Any]:
    """One seed: its metrics, matrices and seconds."""
    configure(folder, seed=seed)
    started = time.monotonic()
    run_dvc(folder, "repro")
    seconds = time.monotonic() - started
    evaluation = json.loads((folder / artifacts.EVALUATION).read_text())
    return {
        "metrics": json.loads((folder / artifacts.METRICS).read_text()),
        "matrices": evaluation["matrices"],
        "test_images": evaluation["test_images"],
        "seconds": round(seconds),
    }


def rows_of(results: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method: mean and standard deviation over seeds of its final average accuracy and forgetting."""
    rows = []
    for key in (row for row in METHODS if all(row in result["matrices"] for result in results.values())):
        triangles = [result["matrices"][key] for result in results.values()]
        accuracy = [100 * statistics.fmean(triangle[-1]) for triangle in triangles]
        forgetting = [100 * metrics.forgetting(metrics.square(triangle)) for triangle in triangles]
        rows.append(
            {
                "method": key,
                "name": METHODS[key],
                "average_accuracy_mean": round(statistics.fmean(accuracy), 2),
                "average_accuracy_std": round(mean_and_std(accuracy)[1], 2),
                "forgetting_mean": round(statistics.fmean(forgetting), 2),
                "average_accuracies": [round(value, 2) for value in accuracy],
                "seeds": list(results),
            }
        )
    return rows


def page(report: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = [
        (
            row["name"],
            f"{row['average_accuracy_mean']:.1f} ± {row['average_accuracy_std']:.1f}",
            f"{row['forgetting_mean']:.1f}",
        )
        for row in report["rows"]
    ]
    params = ", ".join(f"`{name}: {value}`" for name, value in report["params"].items())
    return f"""\
# CIFAR-100, ViT-Ti/16

{NUM_TASKS} tasks of {report["params"]["classes_per_task"]} classes, {report["test_images"]:,} test images, seeds
{", ".join(map(str, report["seeds"]))}. {report["machine"]}; seconds per seed: {", ".join(map(str, report["seconds"]))}.

{table(("method", "average accuracy (%)", "forgetting (points)"), rows)}

{verdict({row["method"]: row["average_accuracy_mean"] / 100 for row in report["rows"]})}

The right LayerNorms are selected for {100 * report["selection_accuracy_mean"]:.1f} % of the images.
{report["passes_per_image_mean"]:.2f} passes per image for the whole accuracy matrix.

{params}
"""


def compare(folder: Path) -> None:
    """Run the grid of variants, and keep the results of `python -m pipeline sweep`.

    The reference runs and is committed first, with the first seed: in experiments, DVC cannot restore stages if the
    committed dvc.lock names folders that are not in the cache.
    """
    run_dvc(folder, "repro", "evaluate")
    run(["git", "commit", "-qam", "start of the experiments"], folder)
    run([sys.executable, "-m", "pipeline", "sweep", "sweeps/cifar100_vit_tiny.yaml"], folder)
    for file in (artifacts.COMPARISON, artifacts.COMPARISON_JSON):
        shutil.copy(folder / file, ROOT / RESULT.with_name(f"{RESULT.name}_comparison{file.suffix}"))
    shutil.copytree(
        folder / artifacts.COMPARISON_FIGURES,
        ROOT / RESULT.parent / artifacts.COMPARISON_FIGURES.name,
        dirs_exist_ok=True,
    )


def choose(folder: Path, name: str, texts: list[str]) -> None:
    """Add the accuracy on held-out training images for each value of a parameter, with one seed, to the choices."""
    configure(folder, evaluate_on="validation")
    choices = json.loads((ROOT / CHOICES).read_text()) if (ROOT / CHOICES).exists() else {}
    for text in texts:
        value = YAML(typ="safe").load(text)
        configure(folder, **{name: value})
        result = measure(folder, seed=0)
        accuracy = {row["name"]: row["average_accuracy_mean"] for row in rows_of({0: result})}
        choices.setdefault(name, {})[text] = accuracy
        artifacts.save_plain_json(ROOT / CHOICES, choices)
    page = validation_page(choices)
    artifacts.save_bytes((ROOT / CHOICES).with_suffix(".md"), page.encode())
    print(page)


def validation_page(choices: dict[str, dict[str, dict[str, float]]]) -> str:
    """The choices in Markdown, one table per parameter."""
    parts = ["# CIFAR-100, ViT-Ti/16: hyper-parameters on held-out training images", ""]
    protocol = (
        f"Average accuracy (%) after {NUM_TASKS_CHOICE} tasks, seed 0, on a held-out fifth of the training images."
    )
    parts += [protocol, ""]
    for name, values in choices.items():
        methods = list(next(iter(values.values())))
        body = [(text, *(f"{accuracy[method]:.1f}" for method in methods)) for text, accuracy in values.items()]
        parts += [table((f"`{name}`", *methods), body), ""]
    return "\n".join(parts)


def main(
    images: Annotated[Path, typer.Argument(help="Folder train/CLASS/*, test/CLASS/*.")],
    weights: Annotated[Path, typer.Argument(help="Weights of vit_tiny_patch16_224.")],
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    compare_: Annotated[bool, typer.Option("--compare", help="Run the variants of sweeps/.")] = False,
    choose_: Annotated[str, typer.Option("--choose", help="NAME=VALUE,VALUE: compare on held-out images.")] = "",
) -> None:
    """Run every seed and write the table, or compare variants, or values of one parameter."""
    folder = clone(RESULT.name)
    configure(folder, **params_of(images, weights))
    run_plan(folder, NUM_TASKS_CHOICE if choose_ else NUM_TASKS)
    if compare_:
        compare(folder)
        return
    if choose_:
        name, _, texts = choose_.partition("=")
        choose(folder, name, texts.split(","))
        return
    results = {seed: measure(folder, seed) for seed in map(int, seeds.split(","))}
    values = list(results.values())
    report = {
        "rows": rows_of(results),
        "params": PARAMS,
        "seeds": list(results),
        "test_images": values[0]["test_images"],
        "seconds": [result["seconds"] for result in values],
        "machine": machine_name(),
    }
    for name in ("selection_accuracy", "passes_per_image"):
        report[f"{name}_mean"] = round(statistics.fmean(result["metrics"][name] for result in values), 4)
    artifacts.save_plain_json(RESULT.with_suffix(".json"), report)
    artifacts.save_bytes(RESULT.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
