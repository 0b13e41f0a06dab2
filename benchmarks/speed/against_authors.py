"""Compares the pipeline with the authors' schedule on the same data, model and precision: accuracy, time and passes.

The pipeline runs with the authors' epochs, batches and rates; with presets/fast.yaml; and for one epoch with
class-level discriminants as selector and classifier, which need fewer epochs.
"""

import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from benchmarks.speed import authors_schedule
from benchmarks.speed.ratios import Row, row
from harness.clone import ROOT, clone, configure, run_dvc, run_plan
from harness.stage_order import LEARNING, run_stages
from pipeline.backbone.build import build_backbone
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.machine.device import compute_device
from pipeline.params import read_mapping
from pipeline.store import artifacts
from pipeline.tasks import task_name
from pipeline.tuning.norms import NormOptions, norm_parameters

THEIRS = "authors' schedule"
EPOCHS = 5  # of each of the authors' three trainings
SEEDS = (0, 1)
ONE_EPOCH = {"epochs": 1, "batch_size": 8, "lr": 0.005}


class Result(NamedTuple):
    """Accuracy and cost of learning all tasks."""

    accuracy: float
    seconds: float
    equivalents: int  # forward passes of an image; a training step counts as two


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Counts images that go through the model, by kind of pass."""
    images = {"forward": 0, "training": 0}
    plain = Backbone.forward

    def forward(self: Backbone, inputs: Tensor, layernorms: dict[str, Tensor]) -> Tensor:
        output = plain(self, inputs, layernorms)
        images["training" if output.requires_grad else "forward"] += len(inputs)
        return output

    Backbone.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield images
    finally:
        Backbone.forward = plain  # type: ignore[method-assign]


def run_ours(num_tasks: int, changes: Mapping[str, Any]) -> float:
    """Run the pipeline from queries to evaluation in this process. Returns its average accuracy."""
    configure(Path(), **changes)
    run_stages(num_tasks, LEARNING)
    return float(artifacts.load_json(artifacts.EVALUATION)["metrics"]["average_accuracy"])


def run_theirs(num_tasks: int, seed: int) -> float:
    """Run the authors' schedule on the same data, with the paper's epochs. Returns its average accuracy."""
    params = read_mapping(Path("params.yaml"))
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=params["image_size"], normalize=params["normalize"], device=compute_device()
    )
    trains = [artifacts.load_tensors(artifacts.train_file(task_name(task))) for task in range(num_tasks)]
    test = artifacts.load_tensors(artifacts.TEST)
    of_task = [(test["tasks"] == task).nonzero().flatten() for task in range(num_tasks)]
    fields = {name: params[name] for name in ("batch_size", "lr", "classifier_lr", "min_crop", "flip")}
    return authors_schedule.run(
        backbone,
        authors_schedule.Recipe(epochs=EPOCHS, **fields),
        norm_parameters(backbone.model, NormOptions(norms="all", parameters="both")),
        [(Images.from_tensors(train), train["labels"]) for train in trains],
        [(Images.from_tensors(test)[rows], test["labels"][rows]) for rows in of_task],
        seed=seed,
    )


def measured(work: Callable[[], float]) -> Result:
    """Run something; measure its time and count its passes."""
    with counted() as images, redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        accuracy = work()
        return Result(accuracy, time.perf_counter() - started, images["forward"] + 2 * images["training"])


def plain_params(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that `our_variants` changes, with their values in params.yaml, and `changes`."""
    default = read_mapping(ROOT / "params.yaml")
    names = {name for preset in ("fast", "best_domains") for name in read_mapping(ROOT / f"presets/{preset}.yaml")}
    return {name: default[name] for name in sorted({*names, *ONE_EPOCH})} | dict(changes)


def our_variants(plain: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of each of our variants, on top of those from `plain_params`."""
    fast, discriminants = (read_mapping(ROOT / f"presets/{preset}.yaml") for preset in ("fast", "best_domains"))
    return {
        f"ours, {EPOCHS} epochs": {**plain, "epochs": EPOCHS},
        "ours, presets/fast": {**plain, **fast},
        "ours, 1 epoch, presets/best_domains": {**plain, **ONE_EPOCH, **discriminants},
    }


def results_of_seed(num_tasks: int, seed: int, ours: Mapping[str, Mapping[str, Any]]) -> dict[str, Result]:
    """Run theirs, then ours, in the working folder, in which images are cut into tasks."""
    results = {THEIRS: measured(partial(run_theirs, num_tasks, seed))}
    return results | {who: measured(partial(run_ours, num_tasks, params)) for who, params in ours.items()}


def image_count(num_tasks: int) -> int:
    """Training and test images of the tasks in the working folder."""
    trains = [artifacts.load_tensors(artifacts.train_file(task_name(task))) for task in range(num_tasks)]
    return len(artifacts.load_tensors(artifacts.TEST)["tasks"]) + sum(len(train["labels"]) for train in trains)


def rows(name: str, title: str, num_tasks: int, changes: Mapping[str, Any]) -> Iterator[Row]:
    """Run theirs, then ours, with every seed in a clone. changes: of params.yaml, for both."""
    folder = clone(name)
    plain = plain_params(changes)
    results: list[dict[str, Result]] = []
    for seed in SEEDS:
        configure(folder, **plain, seed=seed)
        run_plan(folder, num_tasks)
        run_dvc(folder, "repro", "split")
        with chdir(folder):
            results.append(results_of_seed(num_tasks, seed, our_variants(plain)))
            images = image_count(num_tasks)
        for who, result in results[-1].items():
            print(title, seed, who, result, flush=True)
    yield from summaries(title, results, images)


def summaries(title: str, of_seeds: Sequence[Mapping[str, Result]], images: int) -> Iterator[Row]:
    """Accuracy, time and passes of ours against theirs, over the seeds."""
    results = {who: [of_seed[who] for of_seed in of_seeds] for who in of_seeds[0]}
    theirs = results[THEIRS]
    for who in list(results)[1:]:
        pairs = list(zip(theirs, results[who], strict=True))
        gains = [100 * (one.accuracy - their.accuracy) for their, one in pairs]
        times = [their.seconds / one.seconds for their, one in pairs]
        passes = [their.equivalents / one.equivalents for their, one in pairs]
        yield summary(f"accuracy of {who} - of the {THEIRS}, {title}", gains, ">= 0", "points")
        yield summary(f"{THEIRS} / {who}, {title}", times, ">= 4, equally accurate", "x time")
        yield summary(f"{THEIRS} / {who}, {title}", passes, "", "x forward-equivalents")
    for who, of_who in results.items():
        equivalents = [result.equivalents / images for result in of_who]
        yield summary(f"forward-equivalents per image, {who}, {title}", equivalents, "", "passes")


def summary(name: str, values: Sequence[float], goal: str, unit: str) -> Row:
    """The mean over the seeds, and the spread."""
    return row(name, statistics.fmean(values), goal, unit, (min(values), max(values)))
