"""The pipeline against the authors' schedule: same data, model, batches and precision; wall clock and passes."""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import authors_schedule
from benchmarks.clone import clone, configure, run_dvc, run_plan
from benchmarks.ratios import Row, row
from benchmarks.stage_order import in_order, run_stage
from pipeline import artifacts
from pipeline.backbone import Backbone, build_backbone
from pipeline.device import compute_device
from pipeline.images import Images
from pipeline.params import read_mapping
from pipeline.tasks import task_name
from pipeline.tuned_parameters import tuned_names

EPOCHS = 5  # of each of the authors' three trainings
OUR_EPOCHS = (5, 2, 1)  # of our one: keys have a closed form, classifiers see stored features


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


def run_ours(num_tasks: int, epochs: int) -> float:
    """The pipeline from queries to evaluation in this process: its average accuracy. epochs: of stage one."""
    configure(Path(), epochs=epochs)
    for stage, *task in in_order(num_tasks):
        if stage not in ("code", "download", "split", "report"):
            run_stage(stage, *task)
    return float(artifacts.load_json(artifacts.EVALUATION)["metrics"]["average_accuracy"])


def run_theirs(num_tasks: int, lr: float) -> float:
    """The authors' schedule on the same data, with the paper's epochs: its average accuracy."""
    params = read_mapping(Path("params.yaml"))
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=params["image_size"], normalize=params["normalize"], device=compute_device()
    )
    trains = [artifacts.load_tensors(artifacts.train_file(task_name(task))) for task in range(num_tasks)]
    test = artifacts.load_tensors(artifacts.TEST)
    of_task = [(test["tasks"] == task).nonzero().flatten() for task in range(num_tasks)]
    recipe = authors_schedule.Recipe(
        epochs=EPOCHS,
        batch_size=params["batch_size"],
        lr=lr,
        classifier_lr=params["classifier_lr"],
        min_crop=params["min_crop"],
        flip=params["flip"],
    )
    return authors_schedule.run(
        backbone,
        recipe,
        tuned_names(backbone.model, "layernorm", "all", "both"),
        [(Images.from_tensors(train), train["labels"]) for train in trains],
        [(Images.from_tensors(test)[rows], test["labels"][rows]) for rows in of_task],
    )


def rows(name: str, title: str, num_tasks: int, lr: float, changes: Mapping[str, Any]) -> Iterator[Row]:
    """Theirs, then ours with their epochs and with fewer, in a clone in which `split` has run; lr: of theirs."""
    folder = clone(name)
    configure(folder, **changes)
    run_plan(folder, num_tasks)
    run_dvc(folder, "repro", "split")
    results: dict[str, tuple[float, float, float, float]] = {}
    with chdir(folder):
        test_images = len(artifacts.load_tensors(artifacts.TEST)["tasks"])
        train_images = sum(
            len(artifacts.load_tensors(artifacts.train_file(task_name(task)))["labels"]) for task in range(num_tasks)
        )
        runs: dict[str, Callable[[], float]] = {"theirs": partial(run_theirs, num_tasks, lr)}
        runs |= {f"ours, {epochs} epochs": partial(run_ours, num_tasks, epochs) for epochs in OUR_EPOCHS}
        for who, work in runs.items():
            with counted() as images, redirect_stdout(io.StringIO()):
                started = time.perf_counter()
                accuracy = work()
                took = time.perf_counter() - started
            results[who] = accuracy, took, images["forward"] + 2 * images["training"], images["training"]
    theirs = results.pop("theirs")
    for ours, result in results.items():
        gain = 100 * (result[0] - theirs[0])
        yield row(f"accuracy of {ours} - of the authors' schedule, {title}", gain, ">= 0", "points")
        yield row(f"authors' schedule / {ours}, {title}", theirs[1] / result[1], ">= 4, equally accurate", "x time")
        yield row(f"authors' schedule / {ours}, {title}", theirs[2] / result[2], "", "x forward-equivalents")
    for who, result in {"authors' schedule": theirs, **results}.items():
        equivalents = result[2] / (train_images + test_images)
        yield row(f"forward-equivalents an image, {who}, {title}", equivalents, "", "passes")
