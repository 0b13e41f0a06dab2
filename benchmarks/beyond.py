"""Every selector with every classifier on the same finished LayerNorms: CIFAR-100, ViT-Ti/16, several seeds.

    python -m benchmarks.beyond IMAGES WEIGHTS

The pipeline runs as in benchmarks.cifar100_vit_tiny; then each image is run once under each task's LayerNorms, and all
selectors, classifiers and corrections of the library learn task by task from these features, as the stages would have
them do. Writes reports/benchmarks/beyond.{md,json}; with `--evaluate-on validation`, where choices are made,
beyond_validation.{md,json}.
"""

import io
import json
import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.cifar100_vit_tiny import NUM_TASKS, PARAMS, ROOT, clone, configure, measure, run_plan
from pipeline import artifacts
from pipeline.backbone import build_backbone
from pipeline.classifier import LEARN as CLASSIFIERS
from pipeline.classifier import TaskFeatures, Training
from pipeline.correction import arc
from pipeline.cumulative import row
from pipeline.device import compute_device
from pipeline.feature_table import FeatureTable
from pipeline.head import Head, task_heads
from pipeline.images import Images
from pipeline.mappers import LEARN as MAPPERS
from pipeline.mappers import add_prototype
from pipeline.progress import Progress
from pipeline.rematch import rematch
from pipeline.report import table
from pipeline.seeds import generator
from pipeline.selector import ENTROPY, SCORES, lowest_entropy
from pipeline.tasks import task_name

SEE_SELECTED = ("softmax", "ncm")  # classifiers that learn from features under the selected LayerNorms
CORRECTIONS = ("none", "arc", "rematch")
ARC_GAMMA, ARC_TEMPERATURE, ROUNDS = 1.0, 1.2, 3
State = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """A finished run: queries, and features of every image under every task's LayerNorms."""

    seed: int
    train_queries: list[Tensor]  # [N, D] of each task
    train_labels: list[Tensor]  # [N] of each task, from 0
    train_features: list[Tensor]  # [T, N, D] of each task's images under every task's LayerNorms
    test_queries: Tensor  # [M, D]
    test_features: Tensor  # [T, M, D]
    test_labels: Tensor  # [M]
    test_tasks: Tensor  # [M]
    auxiliary_heads: list[Head]
    layernorm_bytes: int  # of a task

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.train_queries)


def load_run(seed: int) -> Run:
    """The run of the working folder, in which the pipeline has finished."""
    last = task_name(NUM_TASKS - 1)
    names = [task_name(task) for task in range(NUM_TASKS)]
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=PARAMS["image_size"], normalize=PARAMS["normalize"], device=compute_device()
    )
    bank = artifacts.load_tensors(artifacts.layernorms_file(last))

    def under_all(images: Images, progress: Progress) -> Tensor:
        features = []
        for task in range(NUM_TASKS):
            features.append(backbone.encode(images, row(bank, task)))
            progress.step(len(images))
        return torch.stack(features)

    trains = [artifacts.load_tensors(artifacts.train_file(name)) for name in names]
    test = artifacts.load_tensors(artifacts.TEST)
    with Progress(f"features, seed {seed}", images=0) as progress:
        train_features = [under_all(Images.from_tensors(train), progress) for train in trains]
        test_features = under_all(Images.from_tensors(test), progress)
        progress.finish()
    return Run(
        seed=seed,
        train_queries=[artifacts.load_tensors(artifacts.train_queries_file(name))["queries"] for name in names],
        train_labels=[train["labels"] for train in trains],
        train_features=train_features,
        test_queries=artifacts.load_tensors(artifacts.TEST_QUERIES)["queries"],
        test_features=test_features,
        test_labels=test["labels"],
        test_tasks=test["tasks"],
        auxiliary_heads=task_heads(artifacts.load_tensors(artifacts.auxiliary_heads_file(last))),
        layernorm_bytes=sum(tensor[0].numel() * tensor.element_size() for tensor in bank.values()),
    )


def selections(run: Run, selector: str) -> tuple[list[Tensor], Tensor, State]:
    """Tasks selected for each task's training images when it was the newest, for the test images in the end; state."""
    state: State = {}
    trains = []
    for task, (queries, labels) in enumerate(zip(run.train_queries, run.train_labels, strict=True)):
        own = torch.full((len(queries),), task)
        if selector in ("oracle", "latest"):
            trains.append(own)
        elif selector == ENTROPY:
            heads = run.auxiliary_heads[: task + 1]
            trains.append(lowest_entropy([h.logits(f) for h, f in zip(heads, run.train_features[task], strict=False)]))
        else:
            random = generator(run.seed, "keys", task)
            if selector == "key":
                state = add_prototype(state, torch.nn.functional.normalize(queries, dim=1).mean(0))
            else:
                state = MAPPERS[selector](state, queries, labels, random)
            trains.append(SCORES[selector](state, queries).argmax(1))
    if selector == "oracle":
        test = run.test_tasks
    elif selector == "latest":
        test = torch.full_like(run.test_tasks, run.num_tasks - 1)
    elif selector == ENTROPY:
        test = lowest_entropy([h.logits(f) for h, f in zip(run.auxiliary_heads, run.test_features, strict=True)])
    else:
        test = SCORES[selector](state, run.test_queries).argmax(1)
    return trains, test, state


def learn(run: Run, classifier: str, trains: list[Tensor]) -> tuple[State, Head]:
    """The classifier after the last task, from features under the selected LayerNorms."""
    state: State = {}
    head = Head(torch.empty(0), torch.empty(0))
    for task, (features, labels, selected) in enumerate(zip(run.train_features, run.train_labels, trains, strict=True)):
        views = features[selected, torch.arange(len(labels))][None]
        before = features[task - 1] if task else run.train_queries[0]
        training = Training(
            batch_size=PARAMS["batch_size"],
            lr=PARAMS["classifier_lr"],
            epochs=PARAMS["classifier_epochs"],
            start=None,
            generator=generator(run.seed, "stage_two", task),
            progress=Progress("", 0),
        )
        given = TaskFeatures(views, features[task], before, labels)
        with redirect_stdout(io.StringIO()):  # hundreds of heads are trained here
            state, head = CLASSIFIERS[classifier](state, given, training)
    return state, head


def answers(run: Run, head: Head, selected: Tensor, correction: str) -> tuple[Tensor, float]:
    """Predicted classes [M] of the test images, and how many passes an image the correction took."""
    image = torch.arange(len(selected))
    features = run.test_features[selected, image]
    sizes = torch.tensor([int(labels.max()) + 1 for labels in run.train_labels])
    class_tasks = torch.arange(run.num_tasks).repeat_interleave(sizes)
    if correction == "arc":
        return arc(head.logits(features), class_tasks, gamma=ARC_GAMMA, temperature=ARC_TEMPERATURE), 0.0
    if correction == "rematch":
        empty = FeatureTable.empty(features.shape[1])
        final = FeatureTable(image, selected, features, image[None], empty.own_rows, selected[None], empty.tuned_passes)
        result = rematch(final, [head], class_tasks, lambda i, t: run.test_features[t, i], rounds=ROUNDS)
        return result.predictions[0], int(result.asked[0]) / len(selected)
    return head.logits(features).argmax(1), 0.0


def grid() -> Iterator[tuple[str, str]]:
    """Selectors and classifiers."""
    for selector in (*SCORES, ENTROPY, "oracle"):
        for classifier in CLASSIFIERS:
            if classifier != "carried_gaussians":
                yield selector, classifier
    yield "latest", "carried_gaussians"
    yield "latest", "softmax"


def rows_of_run(run: Run) -> dict[tuple[str, str, str], dict[str, float]]:
    """Accuracy and costs of every row of the table."""
    results = {}
    chosen = {selector: selections(run, selector) for selector in {selector for selector, _ in grid()}}
    learned: dict[str, tuple[State, Head]] = {}  # of those that see own features only, whatever selects
    for selector, classifier in grid():
        trains, test, selector_state = chosen[selector]
        if classifier in SEE_SELECTED:
            state, head = learn(run, classifier, trains)
        else:
            if classifier not in learned:
                learned[classifier] = learn(run, classifier, trains)
            state, head = learned[classifier]
        models = 1 if selector == "latest" else run.num_tasks
        stored = models * run.layernorm_bytes + size(selector_state) + size(state)
        passes = {"latest": 1, "oracle": 1, ENTROPY: run.num_tasks}.get(selector, 2)
        for correction in CORRECTIONS if selector not in ("oracle", "latest") else ("none",):
            predicted, more = answers(run, head, test, correction)
            right = (predicted == run.test_labels).float()
            of_task = [float(right[run.test_tasks == task].mean()) for task in range(run.num_tasks)]
            results[selector, classifier, correction] = {
                "average_accuracy": 100 * statistics.fmean(of_task),
                "selection_accuracy": 100 * float((test == run.test_tasks).float().mean()),
                "passes": passes + more,
                "bytes_per_task": stored / run.num_tasks,
            }
    return results


def size(state: Mapping[str, Tensor]) -> int:
    """Bytes of a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def summarise(runs: dict[int, dict[tuple[str, str, str], dict[str, float]]]) -> list[dict[str, Any]]:
    """Mean over the seeds, best first."""
    rows = []
    for key in next(iter(runs.values())):
        values = [results[key] for results in runs.values()]

        def mean(name: str, values: list[dict[str, float]] = values) -> float:
            return round(statistics.fmean(value[name] for value in values), 2)

        accuracy = [value["average_accuracy"] for value in values]
        rows.append(
            dict(zip(("selector", "classifier", "correction"), key, strict=True))
            | {
                "average_accuracy_mean": mean("average_accuracy"),
                "average_accuracy_std": round(statistics.stdev(accuracy), 2) if len(accuracy) > 1 else 0.0,
                "average_accuracies": [round(value, 2) for value in accuracy],
                "selection_accuracy": mean("selection_accuracy"),
                "passes": mean("passes"),
                "bytes_per_task": round(mean("bytes_per_task")),
                "seeds": list(runs),
            }
        )
    return sorted(rows, key=lambda row: -row["average_accuracy_mean"])


def page(report: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    rows = [
        (
            " + ".join(row[name] for name in ("selector", "classifier", "correction") if row[name] != "none"),
            f"{row['average_accuracy_mean']:.1f} ± {row['average_accuracy_std']:.1f}",
            f"{row['selection_accuracy']:.1f}",
            f"{row['passes']:.2f}",
            f"{row['bytes_per_task']:,}",
        )
        for row in report["rows"]
    ]
    header = ("configuration", "average accuracy (%)", "right LayerNorms (%)", "passes", "bytes a task")
    return f"""\
# Selectors, classifiers and corrections: CIFAR-100, ViT-Ti/16

{NUM_TASKS} tasks of ten classes, {PARAMS["image_size"]} px, measured on {report["evaluate_on"]} images, seeds
{", ".join(map(str, report["seeds"]))}; all on the same LayerNorms. The paper's configuration is key + softmax; `oracle`
is told the task, an upper bound. No row keeps a sample of an old task. {report["machine"]}

{table(header, rows)}
"""


def main(
    images: Annotated[Path, typer.Argument(help="Folder train/CLASS/*, test/CLASS/*.")],
    weights: Annotated[Path, typer.Argument(help="Weights of vit_tiny_patch16_224.")],
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    evaluate_on: Annotated[str, typer.Option(help="test, or validation where choices are made.")] = "test",
) -> None:
    """Run every seed and write the table."""
    folder = clone()
    changes = PARAMS | {"evaluate_on": evaluate_on}
    configure(folder, **changes, data_dir=str(images.resolve()), backbone_weights=str(weights.resolve()))
    run_plan(folder, NUM_TASKS)
    runs = {}
    for seed in map(int, seeds.split(",")):
        measure(folder, seed)
        with chdir(folder):
            runs[seed] = rows_of_run(load_run(seed))
    report = {
        "rows": summarise(runs),
        "params": changes,
        "evaluate_on": evaluate_on,
        "seeds": list(runs),
        "machine": f"{os.cpu_count()} CPU cores.",
    }
    result = ROOT / "reports/benchmarks" / ("beyond.json" if evaluate_on == "test" else "beyond_validation.json")
    artifacts.save_plain_json(result, json.loads(json.dumps(report)))
    artifacts.save_bytes(result.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
