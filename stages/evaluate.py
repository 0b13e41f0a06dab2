"""Compute every metric of the run from stored features and heads, without a pass through the backbone.

It also records what it has evaluated, so that the learner that predicts is the one in the report.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from pipeline.evaluation import metrics
from pipeline.evaluation.correction import reconsidered_logits, retained
from pipeline.evaluation.methods import ACCURACIES, METHODS, methods_of
from pipeline.evaluation.metrics import Matrix
from pipeline.evaluation.predictions import (
    EvaluationSet,
    accuracy_matrix,
    class_tasks_of,
    highest,
    selection_matrix,
    step_predictions,
)
from pipeline.evaluation.settings import SETTINGS, numbered, seen_classes
from pipeline.inference.competition import Competition
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.manifest import Settings, write_manifest
from pipeline.inference.method import Method, Passes
from pipeline.layout import Layout
from pipeline.linear.head import Head
from pipeline.linear.steps import step_heads
from pipeline.params import read_params
from pipeline.runtime.command import run
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.key import cosine
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from pipeline.tasks import task_name
from pipeline.tuning.bank import Bank, load_bank


class Params(Settings):
    """What inference depends on besides the files."""


def load_test_set(num_tasks: int) -> EvaluationSet:
    """The test images of the first tasks."""
    test = artifacts.load_tensors(artifacts.TEST)
    covered = test["tasks"] < num_tasks
    return EvaluationSet(test["tasks"][covered], test["labels"][covered], seen_classes(classes_of_tasks(num_tasks)))


def classes_of_tasks(num_tasks: int) -> Tensor:
    """Which classes each task has: bool [T, C]."""
    return numbered(list(artifacts.load_json(artifacts.TASKS).values())[:num_tasks])[1]


def main() -> None:
    """Compute accuracy matrices, selection and metrics."""
    params = read_params(Params)
    last = task_name(params.num_tasks - 1)
    test = load_test_set(params.num_tasks)
    heads = artifacts.load_tensors(artifacts.heads_file(last))
    rematched = artifacts.load_tensors(artifacts.REMATCH)
    stored = artifacts.load_tensors(artifacts.features_file(last))
    table, queries = FeatureTable.from_tensors(stored), stored["test_queries"]
    keys = artifacts.load_tensors(artifacts.keys_file(last))["keys"]

    bank = load_bank(artifacts.bank_file(last), params.num_tasks)
    method = Method(bank.kind, SELECTIONS[params.selection], find_selector(params.selector), params.average_scale)
    features_after = method.features(table)
    features_of = {  # row -> name of its head, and a function (step, images) -> their features
        "c_ln": ("tuned", features_after),
        "c_ln_lda": ("tuned_lda", table.after),
        "single_stage": ("auxiliary", table.after),
        "oracle": ("tuned", lambda _, image: table.of_own_task(image)),
        "frozen": ("frozen", lambda _, image: queries[image]),
        "frozen_ncm": ("frozen_ncm", lambda _, image: queries[image]),
        "frozen_lda": ("frozen_lda", lambda _, image: queries[image]),
    }
    setting = SETTINGS[params.setting]
    if setting.gives_task and method.chooses:
        features_of |= {
            row: (head, features_of["oracle"][1]) for row, (head, _) in features_of.items() if row in CHOSEN
        }
    competition = Competition(setting, method, test, table, classes_of_tasks(params.num_tasks))
    matrices = {}
    selects = method.chooses and not setting.gives_task and not test.is_shared
    side_by_side = method.tunes and method.selection.side_by_side
    for row in methods_of(selects=selects, tunes=method.tunes, side_by_side=side_by_side):
        name, features_at = features_of[row]
        after = step_heads(part(heads, f"{name}.head."), heads.get(f"{name}.projection"))
        predictions = step_predictions(test, after, features_at, competing=partial(competition.rows, row))
        if row == "c_ln" and params.correction != "none":
            predictions = (
                rematched["predictions"] if rematched else corrected_predictions(params, test, after, features_after)
            )
        matrices[row] = accuracy_matrix(test, predictions)

    # Selection is reported only if there was a choice, and keys only if they made it.
    selection = selection_matrix(test, table.selected[-1]) if selects and test.num_tasks > 1 else None
    counts = list(artifacts.load_json(artifacts.IMAGE_COUNTS).values())[: params.num_tasks]
    values = accuracies(matrices, selection, test.counts) | {
        **pass_costs(method, table, rematched, last, is_given=setting.gives_task),
        "bytes_per_task": kept_bytes(method, bank, heads, last, is_given=setting.gives_task) / params.num_tasks,
        "task_parameters": bank.trained,
        "training_images": sum(count["training"] for count in counts),
        "test_images": len(test.tasks),
    }
    rounded = {name: round(value, 6) for name, value in values.items()}
    artifacts.save_plain_json(artifacts.METRICS, rounded)
    save_plots(matrices, test, selection)
    artifacts.save_json(
        artifacts.EVALUATION,
        {
            "metrics": rounded,
            "matrices": {name: triangle(matrix) for name, matrix in matrices.items()},
            "selection": None if selection is None else selection.tolist(),
            "key_similarity": cosine(keys, keys).tolist()
            if method.chooses and not setting.gives_task and method.asks_selector and method.selector.by_key
            else None,
            "test_images": len(test.tasks),
            "shares_test": test.is_shared,
            "domains": list(artifacts.load_json(artifacts.DOMAINS).values())[: params.num_tasks],
            "tuned_passes": table.tuned_passes.tolist(),
            "tasks": dict(list(artifacts.load_json(artifacts.TASKS).items())[: params.num_tasks]),
            "backbone": backbone_facts(last),
        },
    )
    write_manifest(params)


def backbone_facts(last: str) -> dict[str, int]:
    """Size and cost of the frozen backbone, from the last task's file."""
    described = artifacts.load_metadata(artifacts.features_file(last))
    layout = Layout.from_metadata(described)
    return {
        "parameters": int(described["parameters"]),
        "dim": layout.dim,
        "vectors": layout.vectors,
        "flops_per_pass": int(described["frozen_flops"]),
    }


CHOSEN = ("c_ln", "c_ln_lda", "single_stage")  # rows whose features are those of the chosen task


def pass_costs(
    method: Method, table: FeatureTable, rematched: Mapping[str, Tensor], last: str, *, is_given: bool
) -> dict[str, float]:
    """Passes per image for the whole accuracy matrix and at inference, and the operations at inference.

    is_given: whether the task of an image is given, so that one pass under its parameters serves every step.
    rematched: the passes that re-matching took, empty without it; last: the name of the last task.
    """
    images, passes = table.selected.shape[1], method.passes(len(table.selected))
    of_tuned = 1 + passes.asked
    whole_matrix = passes.query + (of_tuned * int(table.tuned_passes.sum()) / images if passes.tuned else 0)
    if is_given and method.chooses:
        passes, whole_matrix = Passes(query=0, tuned=1), 1.0
    tuned = float(passes.tuned)
    if rematched:
        whole_matrix += int(rematched["passes"].sum()) / images
        tuned += int(rematched["asked"][-1]) / images
    described = artifacts.load_metadata(artifacts.features_file(last))
    frozen_flops, tuned_flops = int(described["frozen_flops"]), int(described["flops"])  # with the one it asks
    return {
        "passes_per_image": whole_matrix,
        "passes_at_inference": passes.query + of_tuned * tuned,
        "gflop_at_inference": (passes.query * frozen_flops + tuned * tuned_flops) / 1e9,
    }


def kept_bytes(method: Method, bank: Bank, heads: Mapping[str, Tensor], last: str, *, is_given: bool) -> int:
    """Bytes that the learner keeps after its last task: tuned parameters, classifier and selector."""
    models = method.models(bank.tensors)
    kept = {name: rows[-1:] for name, rows in models.items()} if method.selection.one_model else models
    stored = size(kept) + size(part(heads, "tuned.state."))
    if is_given:
        return stored
    if method.judges_outputs:
        return stored + size(part(heads, "auxiliary.state."))
    return stored + (size(artifacts.load_tensors(artifacts.selector_file(last))) if method.asks_selector else 0)


def accuracies(matrices: Mapping[str, Matrix], selection: Tensor | None, images: Sequence[int]) -> dict[str, float]:
    """Summary metrics of the accuracy matrices. A single task has neither forgetting nor selection accuracy.

    images: test images of each task.
    """
    c_ln = matrices["c_ln"]
    over_images = metrics.accuracies_over_images(c_ln, images)
    values = {
        "average_accuracy": metrics.average_accuracy(c_ln),
        "average_incremental_accuracy": metrics.average_incremental_accuracy(c_ln),
        "accuracy_over_images": over_images[-1],
        "incremental_accuracy_over_images": sum(over_images) / len(over_images),
    }
    if metrics.has_forgetting(c_ln):
        values["forgetting"] = metrics.forgetting(c_ln)
        values["forgetting_clipped"] = metrics.forgetting(c_ln, clipped=True)
    if selection is not None:
        values["selection_accuracy"] = float((selection.diag() / selection.sum(1)).mean())
    return values | {ACCURACIES[row]: metrics.average_accuracy(matrix) for row, matrix in matrices.items()}


def corrected_predictions(
    params: Params, test: EvaluationSet, heads: list[Head], features_after: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """C-LN's predictions after every step [T, M], with the correction that params.yaml asks for."""
    class_tasks = class_tasks_of(test.seen_classes)
    after = [
        retained(head, features_after(step, test.images_until(step)), class_tasks[: len(head.bias)], params, step)
        for step, head in enumerate(heads)
    ]

    def decide(logits: Tensor) -> Tensor:
        return highest(reconsidered_logits(logits, class_tasks[: logits.shape[1]], params))

    return step_predictions(test, after, features_after, decide)


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of these tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def triangle(matrix: Matrix) -> list[list[float]]:
    """The rows of an accuracy matrix up to the diagonal, since JSON has no NaN."""
    return [[round(value, 6) for value in row[: step + 1].tolist()] for step, row in enumerate(matrix)]


def save_plots(matrices: Mapping[str, Matrix], test: EvaluationSet, selection: Tensor | None) -> None:
    """The tables behind DVC's plots: fractions, tasks from 1, methods by the names of the report."""
    cells = [
        (step, "all" if test.is_shared else task, value)
        for step, row in enumerate(triangle(matrices["c_ln"]), start=1)
        for task, value in enumerate(row, start=1)
    ]
    artifacts.save_csv(artifacts.ACCURACY_MATRIX, ("after_task", "on_task", "accuracy"), cells)
    points = [
        (step, METHODS[row], round(value, 6))
        for row, matrix in matrices.items()
        for step, value in enumerate(metrics.average_accuracies(matrix), start=1)
    ]
    artifacts.save_csv(artifacts.ACCURACY_OVER_TASKS, ("tasks_learned", "method", "accuracy"), points)
    images = test.counts
    # DVC cannot draw a table without rows. Without selection, the rows say "none".
    chosen: list[tuple[int, int | str, int, float]] = [(own, "none", count, 1.0) for own, count in enumerate(images, 1)]
    if selection is not None:
        chosen = [
            (own, task, count, round(count / images[own - 1], 6))
            for own, row in enumerate(selection.tolist(), start=1)
            for task, count in enumerate(row, start=1)
        ]
    artifacts.save_csv(artifacts.SELECTION, ("true_task", "selected_task", "images", "share"), chosen)


if __name__ == "__main__":
    run(main)
