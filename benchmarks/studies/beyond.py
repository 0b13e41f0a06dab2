"""Compares every selector with every classifier and correction, on the same LayerNorms, with several `features`.

    python -m benchmarks.studies.beyond                     # the embedded default: beyond_glyphs
    python -m benchmarks.studies.beyond IMAGES WEIGHTS      # CIFAR-100 with ViT-Ti/16 (cifar100_vit_tiny.py): beyond
    python -m benchmarks.studies.beyond --params mine.yaml  # anything: beyond_mine

A file of parameters is like those in presets/, on top of params.yaml: dataset, data_dir, task_classes or num_tasks,
backbone, rates. The ordinary pipeline learns the LayerNorms once per seed. Everything else uses their features,
computed once, with the functions that the stages call. The features of the last four blocks contain all the others, so
one pass per image and model is enough. Options are those of params.yaml; `class_gaussians` has those of
presets/best.yaml. Classifiers of other methods are compared in benchmarks.studies.methods. Make choices with
`--evaluate-on validation`, which adds _validation to the name. Writes reports/benchmarks/NAME.md and .json.
"""

import io
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

from benchmarks.studies import beyond_page
from benchmarks.studies.beyond_page import Row
from benchmarks.studies.cifar100_vit_tiny import NUM_TASKS, params_of
from benchmarks.studies.finished_run import FinishedRun, OneModel, load_run, size
from harness.clone import ROOT, clone, configure, run_dvc, run_plan
from pipeline.classification.classifier import TaskFeatures, Training, find_classifier
from pipeline.evaluation.correction import arc
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.rematch import rematch
from pipeline.linear.head import Head
from pipeline.params import read_block, read_mapping
from pipeline.parts import names
from pipeline.progress import Progress
from pipeline.seeds import generator
from pipeline.selection.key import closed_form_key
from pipeline.selection.selector import TaskQueries, find_selector
from pipeline.store import artifacts
from pipeline.tasks import task_name

SEE_SELECTED = ("softmax", "ncm")  # classifiers that learn from features under the selected LayerNorms
OF_ONE_MODEL = ("softmax", "ncm", "lda", "carried_gaussians", "class_gaussians")
OF_FIXED = ("softmax", "ncm", "lda", "class_gaussians")  # nothing moves, so nothing is carried
FIXED = ("frozen", "recomputed")
OF_OTHER_METHODS = ("ranpac", "ease", "fecam", "slca")
FEATURES = {"cls": (1, 1), "cls_4": (4, 1), "cls_patch": (1, 2), "last_4": (4, 2)}  # blocks, vectors of each
RICHEST = "last_4"
WITH_SELECTORS = ("cls", "cls_4", RICHEST)
CORRECTIONS = ("none", "arc", "rematch")
_TAKEN = ("glyphs", "validation")  # these names would overwrite pages of other settings
ARC_GAMMA, ARC_TEMPERATURE, ROUNDS = 1.0, 1.2, 3
State = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """What the table is about."""

    title: str
    name: str  # of the clone and of the result
    num_tasks: int
    changes: Mapping[str, Any]  # in params.yaml


def setting_of(images: Path | None, weights: Path | None, params: Path | None) -> Setting:
    """The setting that the arguments ask for, each with its own pages. Exits with one line if they make no sense."""
    if params and not images:
        changes = read_mapping(params)
        if params.stem in _TAKEN or params.stem.endswith("_validation"):
            raise SystemExit(f"{params}: beyond_{params.stem} is another result's page: rename the file")
        whole = read_mapping(ROOT / "params.yaml") | changes
        for key in ("data_dir", "backbone_weights"):  # relative paths mean this checkout, not its clone
            if key in changes:
                changes[key] = str((ROOT / changes[key]).resolve())
        num_tasks = len(whole["task_classes"]) if "num_tasks" not in changes else whole["num_tasks"]
        title = f"{params.stem}: {whole['dataset']}, {whole['backbone']}"
        return Setting(title, f"beyond_{params.stem}", num_tasks or whole["num_tasks"], changes)
    if images and weights and not params:
        return Setting("CIFAR-100, ViT-Ti/16 at 96 px", "beyond", NUM_TASKS, params_of(images, weights))
    if images or weights:
        raise SystemExit("give IMAGES and WEIGHTS of CIFAR-100, or --params FILE for anything else")
    return Setting("glyphs, glyph_vit", "beyond_glyphs", 5, {})


def selections(run: FinishedRun, selector: str) -> tuple[list[Tensor], Tensor, State]:
    """Tasks selected for each task's training images when it was the newest, and for the final test images; state."""
    if selector == "oracle":
        return [torch.full_like(labels, task) for task, labels in enumerate(run.train_labels)], run.test_tasks, {}
    heads, part = run.auxiliary_heads, find_selector(selector)
    if judge := part.choose_by_outputs:
        trains = [
            judge([h.logits(f) for h, f in zip(heads[: task + 1], features, strict=False)])
            for task, features in enumerate(run.train_features)
        ]
        return trains, judge([h.logits(f) for h, f in zip(heads, run.test_features, strict=True)]), {}
    state: State = {}
    trains = []
    for task, (queries, labels) in enumerate(zip(run.train_queries, run.train_labels, strict=True)):
        of_task = TaskQueries(queries, labels, closed_form_key(queries), run.layout.vectors)
        state = part.learn(state, of_task, generator(run.seed, "keys", task))
        trains.append(part.scores(state, queries).argmax(1))
    return trains, part.scores(state, run.test_queries).argmax(1), state


def learn(
    run: FinishedRun, classifier: str, seen: list[Tensor], model: OneModel, params: Mapping[str, Any]
) -> tuple[State, Head]:
    """State and head after the last task. seen: [N, D] of each task, as at inference; model: own features, before."""
    part = find_classifier(classifier)
    options = read_block(classifier, part.options)
    state: State = {}
    head = Head(torch.empty(0), torch.empty(0))
    for task, labels in enumerate(run.train_labels):
        training = Training(
            batch_size=params["classifier_batch_size"],
            lr=params["classifier_lr"],
            epochs=params["classifier_epochs"],
            start=None,
            generator=generator(run.seed, "stage_two", task),
            progress=Progress("", 0),
            options=options,
        )
        given = TaskFeatures(
            seen[task][None],
            model.own[task],
            model.before[task],
            labels,
            task=task,
            layout=run.layout,
            queries=run.train_queries[task],
        )
        with redirect_stdout(io.StringIO()):  # hundreds of heads are trained here
            state, head = part.learn(state, given, training)
    return state, head


def answers(run: FinishedRun, head: Head, features: Tensor, selected: Tensor, correction: str) -> tuple[Tensor, float]:
    """Predicted classes [M] of the test images, and how many passes per image the correction took."""
    image = torch.arange(len(selected))
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


def score(run: FinishedRun, predicted: Tensor) -> float:
    """Average accuracy in percent."""
    right = (predicted == run.test_labels).float()
    return 100 * statistics.fmean(float(right[run.test_tasks == task].mean()) for task in range(run.num_tasks))


def all_rows(run: FinishedRun, params: Mapping[str, Any]) -> Iterator[tuple[Row, dict[str, float]]]:
    """Every configuration, from a run with the richest features: all others are a part of them."""
    for features, (blocks, per_block) in FEATURES.items():
        read = run.read(blocks, per_block)
        if features in WITH_SELECTORS:
            yield from rows_of_selectors(features, read, params)
        yield from rows_of_one_model(features, read, params)


def rows_of_selectors(
    features: str, run: FinishedRun, params: Mapping[str, Any]
) -> Iterator[tuple[Row, dict[str, float]]]:
    """Accuracy and costs if a task is selected for each image."""
    learned: dict[str, tuple[State, Head]] = {}  # classifiers that see only own features, the same for every selector
    image = torch.arange(len(run.test_labels))
    for selector in (*names("selector"), "oracle"):
        trains, test, selector_state = selections(run, selector)
        seen = [f[s, torch.arange(len(s))] for f, s in zip(run.train_features, trains, strict=True)]
        passes = {"oracle": 1, "entropy": run.num_tasks}.get(selector, 2)
        for classifier in names("classifier"):
            if classifier in OF_OTHER_METHODS or find_classifier(classifier).needs_one_model:
                continue
            if classifier in SEE_SELECTED or classifier not in learned:
                learned[classifier] = learn(run, classifier, seen, run.latest, params)
            state, head = learned[classifier]
            kept = size([*selector_state.values(), *state.values()]) / run.num_tasks + run.layernorm_bytes
            for correction in CORRECTIONS if selector != "oracle" else ("none",):
                predicted, more = answers(run, head, run.test_features[test, image], test, correction)
                yield (
                    (features, selector, classifier, correction),
                    {
                        "average_accuracy": score(run, predicted),
                        "selection_accuracy": 100 * float((test == run.test_tasks).float().mean()),
                        "passes": passes + more,
                        "bytes_per_task": kept,
                    },
                )


def rows_of_one_model(
    features: str, run: FinishedRun, params: Mapping[str, Any]
) -> Iterator[tuple[Row, dict[str, float]]]:
    """Accuracy and costs if one model serves all tasks: a set of LayerNorms, or the frozen backbone."""
    last = torch.full_like(run.test_tasks, run.num_tasks - 1)
    frozen = OneModel(own=run.train_queries, before=run.train_queries, test=run.test_queries)
    models = {"latest": run.latest, "average": run.average, "frozen": frozen, "recomputed": run.recomputed}
    for name, model in models.items():
        for classifier in OF_FIXED if name in FIXED else OF_ONE_MODEL:
            state, head = learn(run, classifier, model.own, model, params)
            kept = size(list(state.values())) + (0 if name == "frozen" else run.layernorm_bytes)
            for correction in ("none", "arc"):
                predicted, _ = answers(run, head, model.test, last, correction)
                yield (
                    (features, name, classifier, correction),
                    {"average_accuracy": score(run, predicted), "passes": 1.0, "bytes_per_task": kept / run.num_tasks},
                )


def main(
    images: Annotated[Path | None, typer.Argument(help="Folder train/CLASS/*, test/CLASS/*.")] = None,
    weights: Annotated[Path | None, typer.Argument(help="Weights of vit_tiny_patch16_224.")] = None,
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    evaluate_on: Annotated[str, typer.Option(help="test, or validation to make choices.")] = "test",
    params_file: Annotated[Path | None, typer.Option("--params", help="Other images: changes to params.yaml.")] = None,
) -> None:
    """Run every seed and write the table."""
    setting = setting_of(images, weights, params_file)
    folder = clone(setting.name)
    fixed = {"evaluate_on": evaluate_on, "selection": "query", "tuning": "layernorm", "order": "sequential"}
    fixed |= {"class_gaussians": read_mapping(ROOT / "presets/best.yaml")["class_gaussians"]}
    configure(folder, **{**setting.changes, **fixed})
    run_plan(folder, setting.num_tasks)
    runs = {}
    for seed in map(int, seeds.split(",")):
        configure(folder, seed=seed)
        run_dvc(folder, "repro", f"stage_one@{task_name(setting.num_tasks - 1)}")
        with chdir(folder):
            params = read_mapping(Path("params.yaml"))
            runs[seed] = dict(all_rows(load_run(seed, setting.num_tasks, params, RICHEST), params))
    report = {
        "rows": beyond_page.summarise(runs),
        "title": setting.title,
        "num_tasks": setting.num_tasks,
        "evaluate_on": evaluate_on,
        "seeds": list(runs),
        "machine": f"{os.cpu_count()} CPU cores.",
    }
    suffix = "" if evaluate_on == "test" else f"_{evaluate_on}"
    result = ROOT / f"reports/benchmarks/{setting.name}{suffix}.json"
    text = beyond_page.page(report)
    artifacts.save_plain_json(result, report)
    artifacts.save_bytes(result.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    typer.run(main)
