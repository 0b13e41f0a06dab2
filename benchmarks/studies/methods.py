"""Compares C-LN with the methods that came before and after it: same images, class order, backbone and machine.

    python -m benchmarks.studies.methods [IMAGES WEIGHTS]

runs the glyphs and, where IMAGES (train/CLASS/*, test/CLASS/* of CIFAR-100) and WEIGHTS (timm's vit_tiny_patch16_224)
are given, CIFAR-100 at 96 pixels. Each method is a preset: those of presets/methods, params.yaml itself (C-LN), best
and best_photographs. Its rate is chosen first, with seed 0, on a held-out fifth of the training images of the first
tasks, among its published rate times each of --factors. As long as the best rate is the slowest or the fastest one
tried, the next one beyond it is tried, too (up to seven rates). A rate at which training diverges counts as 0 %. Of the
rates that are as good as the best, within one standard error, the one closest to the published rate is taken. This rule
is the same for every method that has a rate. Then it runs with every seed on the test images.

Runs are kept in .scratch/methods, and a second call continues. Stages run in one process per run, without DVC, so that
seconds and memory are those of the method. Writes reports/benchmarks/methods.md and .json, and two figures per setting
beside them. A call with --only-setting leaves the other setting's rows on the page, and two such calls may run at once.
"""

import json
import math
import os
import resource
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer

from benchmarks.speed.ratios import machine_name
from benchmarks.studies import methods_page
from benchmarks.studies.cifar100_vit_tiny import params_of
from benchmarks.studies.over_seeds import mean_and_std
from harness import plain_project
from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import in_order, run_stage
from pipeline.data.images import Images
from pipeline.errors import DivergedError, UserError
from pipeline.evaluation import metrics
from pipeline.inference.manifest import read_manifest
from pipeline.inference.method import make_encoder
from pipeline.params import read_mapping
from pipeline.store import artifacts
from stages import features, predict

RESULT = Path("reports/benchmarks/methods")
SCRATCH = Path(".scratch/methods")
NUM_TASKS = {"glyphs": 5, "cifar100_vit_tiny": 10}
TRIAL_TASKS = 3  # so many tasks decide the rate
MOST_TRIALS = 7  # rates per method
ONCE = ("download", "split", "queries")  # the same for every method with the same features

Params = dict[str, Any]


def recipes() -> dict[str, Params]:
    """The parameters of each method, to be set on top of a setting's own."""
    of_files = {file.stem: read_mapping(file) for file in sorted((ROOT / "presets/methods").glob("*.yaml"))}
    ours = {name: read_mapping(ROOT / f"presets/{name}.yaml") for name in ("best", "best_photographs")}
    return {"c_ln": {}, **ours, **of_files}


def clock() -> float:
    """Seconds so far: those of the processor, which other work hardly slows down; with a GPU, those that pass."""
    return time.monotonic() if torch.cuda.is_available() else time.process_time()


def run(folder: Path, num_tasks: int, params: Params) -> dict[str, Any]:
    """All stages of one run in this process, which must be a new one: its results, seconds and memory."""
    os.chdir(folder)
    set_params(Path("params.yaml"), **params)
    seconds: dict[str, float] = {}
    spent_on_test = 0.0

    class Timed:
        """An encoder whose passes over test images are timed."""

        def __init__(self, encoder: Any) -> None:  # noqa: ANN401
            self.encoder = encoder

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(self.encoder, name)

        def extend(self, *arguments: Any) -> Any:  # noqa: ANN401
            nonlocal spent_on_test
            started = clock()
            table = self.encoder.extend(*arguments)
            spent_on_test += clock() - started
            return table

    for stage, *task in in_order(num_tasks):
        kept = Path(f"{'-'.join((stage, *task))}.seconds")
        if stage != "report" and not (stage in ONCE and kept.exists()):
            started = clock()
            with mock.patch.object(
                features, "make_encoder", lambda *given, **named: Timed(make_encoder(*given, **named))
            ):
                run_stage(stage, *task)
            taken = clock() - started
            seconds[stage] = seconds.get(stage, 0.0) + taken
            if stage in ONCE:
                kept.write_text(str(taken))
    test = Images.from_tensors(artifacts.load_tensors(artifacts.TEST))
    count = artifacts.load_json(artifacts.EVALUATION)["test_images"]
    learner = predict.load_learner(read_manifest().settings)
    started = clock()
    learner.predict(test[torch.arange(count)])
    evaluation = artifacts.load_json(artifacts.EVALUATION)
    return {
        "metrics": evaluation["metrics"],
        "matrix": evaluation["matrices"]["c_ln"],
        "evaluate_seconds": clock() - started,
        "train_seconds": query_seconds(evaluation["metrics"])
        + sum(seconds[stage] for stage in ("keys", "stage_one", "features", "stage_two"))
        - spent_on_test,
        "peak_memory_bytes": peak_memory(),
    }


def query_seconds(values: dict[str, float]) -> float:
    """Seconds of the frozen passes over the training images of the tasks."""
    counts = artifacts.load_json(artifacts.IMAGE_COUNTS)
    taken = {file.stem.removeprefix("queries-"): float(file.read_text()) for file in Path().glob("queries-*.seconds")}
    return sum(taken.values()) * values["training_images"] / sum(sum(counts[task].values()) for task in taken)


def peak_memory() -> int:
    """The most bytes that this process has held; on a GPU, those of its memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def kept(setting: str, name: str, num_tasks: int, params: Params) -> dict[str, Any]:
    """The result of a run, from an earlier call where there is one with the same parameters."""
    seed, images = params["seed"], params["evaluate_on"]
    folder = ROOT / SCRATCH / setting / f"{images} {seed} {num_tasks} {params['features']}"
    file = folder / f"{name}.json"
    if file.exists() and (known := json.loads(file.read_text()))["params"] == params:
        return known["result"]  # type: ignore[no-any-return]
    first = ROOT / SCRATCH / setting / "data"
    if not (folder / "params.yaml").exists():
        plain_project.make(folder, num_tasks)
        if first.exists():
            shutil.copytree(first, folder, dirs_exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            result = process.submit(run, folder, num_tasks, params).result()
        except UserError as error:
            if images == "test" or not isinstance(error, DivergedError):
                raise SystemExit(f"{setting}, {name}: {error}") from None
            result = {"metrics": {"average_accuracy": 0.0}}  # a rate that is too high loses
    if not first.exists():  # what is downloaded and packed serves all seeds
        for path in (artifacts.RAW_TRAIN.parent, artifacts.BACKBONE, Path("download.seconds")):
            (first / path).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (folder / path).is_dir() else shutil.copy)(folder / path, first / path)
    file.write_text(json.dumps({"params": params, "result": result}))
    print(f"{setting}, {name}, {images}, seed {seed}: {100 * result['metrics']['average_accuracy']:.1f} %", flush=True)
    return result


def chosen_rate(setting: str, name: str, num_tasks: int, params: Params, factors: list[float]) -> tuple[float, Params]:
    """The rate to take, by held-out images of the first tasks, and the accuracy at every rate tried."""
    if params.get("tuning") == "none":
        return params["lr"], {}
    tried: dict[float, float] = {}
    held_out = 0
    rates = [float(f"{params['lr'] * factor:.3g}") for factor in factors]
    while rates:
        for lr in rates:
            trial = at_rate(params, lr) | {"seed": 0, "evaluate_on": "validation"}
            result = kept(setting, f"{name} {lr:g}", min(num_tasks, TRIAL_TASKS), trial)
            tried[lr] = round(100 * result["metrics"]["average_accuracy"], 2)
            held_out = result["metrics"].get("test_images", held_out)
        best, slowest, fastest = max(tried, key=lambda lr: tried[lr]), min(tried), max(tried)
        beyond = {slowest: slowest / 3, fastest: fastest * 3}.get(best)
        rates = [float(f"{beyond:.3g}")] if beyond and len(tried) < MOST_TRIALS else []
    return as_published(tried, params["lr"], held_out), {f"{lr:g}": tried[lr] for lr in sorted(tried)}


def at_rate(params: Params, lr: float) -> Params:
    """The parameters with this rate. SLCA's released code has a single one: the head's, also of its alignment."""
    changes: Params = {"lr": lr}
    if params["classifier"] == "slca":
        changes["slca"] = params["slca"] | {"lr": float(f"{lr * params['head_speed']:.3g}")}
    return params | changes


def as_published(tried: Mapping[float, float], published: float, held_out: int) -> float:
    """Of the rates as good as the best, within one standard error, the closest to the published one.

    tried: rate -> accuracy in percent on so many held-out images. They are those of the first tasks, and cannot tell
    what a faster rate costs in the tasks after them.
    """
    best = max(tried.values())
    error = (best * (100 - best) / held_out) ** 0.5
    as_good = [lr for lr, accuracy in tried.items() if accuracy >= best - error]
    return min(as_good, key=lambda lr: abs(math.log(lr / published)))


def row_of(setting: str, name: str, seeds: list[int], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of what one method reached and took."""
    accuracies = [100 * result["metrics"]["average_accuracy"] for result in results]
    forgotten = [100 * metrics.forgetting(metrics.square(result["matrix"])) for result in results]
    mean, std = mean_and_std(accuracies)

    def of_metric(key: str) -> float:
        return mean_and_std([result["metrics"][key] for result in results])[0]

    def of_run(key: str) -> float:
        return mean_and_std([result[key] for result in results])[0]

    return {
        "setting": setting,
        "method": name,
        "average_accuracy_mean": round(mean, 2),
        "average_accuracy_std": round(std, 2),
        "average_accuracies": [round(value, 2) for value in accuracies],
        "forgetting_mean": round(mean_and_std(forgotten)[0], 2),
        "task_parameters": int(of_metric("task_parameters")),
        "bytes_per_task": round(of_metric("bytes_per_task")),
        "passes": of_metric("passes_at_inference"),
        "gflop": round(of_metric("gflop_at_inference"), 4),
        "train_seconds": round(of_run("train_seconds"), 2),
        "evaluate_seconds": round(of_run("evaluate_seconds"), 2),
        "peak_memory_bytes": round(of_run("peak_memory_bytes")),
        "seeds": seeds,
    }


def settings_of(images: Path | None, weights: Path | None) -> dict[str, Params]:
    """The parameters of each setting: those of params.yaml, with what differs."""
    base = {
        key: value for key, value in read_mapping(ROOT / "params.yaml").items() if key not in ("tasks", "num_tasks")
    }
    glyphs = {
        **base,
        **{key: value for key, value in read_mapping(ROOT / "presets/glyphs.yaml").items() if key in base},
    }
    settings = {"glyphs": glyphs}
    if images and weights:
        settings["cifar100_vit_tiny"] = base | params_of(images, weights)
    return settings


def main(  # noqa: PLR0913, PLR0917
    images: Annotated[Path | None, typer.Argument(help="Folder train/CLASS/*, test/CLASS/* of CIFAR-100.")] = None,
    weights: Annotated[Path | None, typer.Argument(help="Weights of vit_tiny_patch16_224.")] = None,
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    factors: Annotated[str, typer.Option(help="Of the published rate, to choose among.")] = "0.3,1,3,10",
    only: Annotated[str, typer.Option(help="Methods, separated by commas; all if empty.")] = "",
    tasks: Annotated[int, typer.Option(help="Number of tasks; 0: 5 of glyphs, 10 of CIFAR-100.")] = 0,
    most_epochs: Annotated[int, typer.Option(help="No method gets more epochs; to try this script.")] = 10**6,
    out: Annotated[Path, typer.Option(help="Where the page goes, without ending.")] = RESULT,
    only_setting: Annotated[str, typer.Option(help="glyphs or cifar100_vit_tiny; both if empty.")] = "",
) -> None:
    """Choose rates, run every method with every seed, and write the page."""
    methods = {name: recipe for name, recipe in recipes().items() if not only or name in only.split(",")}
    numbers = [int(text) for text in seeds.split(",")]
    rows, rates = [], {}
    for setting, base in settings_of(images, weights).items():
        if only_setting not in ("", setting):
            continue
        num_tasks = tasks or NUM_TASKS[setting]
        chosen = {}
        for name, recipe in methods.items():
            if (setting, name) == ("glyphs", "best_photographs"):
                continue  # it mirrors images
            params = base | recipe
            params |= {"epochs": min(params["epochs"], most_epochs)}
            lr, tried = chosen_rate(setting, name, num_tasks, params, [float(text) for text in factors.split(",")])
            rates[f"{setting} {name}"] = {"lr": lr, "tried": tried}
            chosen[name] = at_rate(params, lr) | {"evaluate_on": "test"}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for seed in numbers:  # seed by seed, so that a run that is cut short has all methods
            for name, params in chosen.items():
                results[name].append(kept(setting, name, num_tasks, params | {"seed": seed}))
        rows += [row_of(setting, name, numbers, of_method) for name, of_method in results.items()]
    report = {"rows": rows, "rates": rates, "machine": machine_name(), "trials": len(factors.split(","))}
    methods_page.write(out, methods_page.with_other_settings(report, out))
    print(out.with_suffix(".md").read_text())


if __name__ == "__main__":
    typer.run(main)
