"""Every metric of the run, from features and heads alone: no pass through the backbone."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pipeline import artifacts, metrics
from pipeline.command import run
from pipeline.evaluation import EvaluationSet, accuracy_matrix, selection_matrix, step_predictions
from pipeline.feature_table import FeatureTable
from pipeline.head import Head
from pipeline.key import cosine
from pipeline.metrics import Matrix
from pipeline.params import Record, read_params
from pipeline.tasks import task_name


class Params(Record):
    """How many tasks the run covers."""

    num_tasks: int = Field(ge=1)


def load_test_set(num_tasks: int) -> EvaluationSet:
    """The test images of the first tasks."""
    sizes = [len(classes) for classes in artifacts.load_json(artifacts.TASKS).values()][:num_tasks]
    test = artifacts.load_tensors(artifacts.TEST)
    covered = test["tasks"] < num_tasks
    return EvaluationSet(test["tasks"][covered], test["labels"][covered], torch.tensor(sizes).cumsum(0).tolist())


def main() -> None:
    """Compute accuracy matrices, selection and metrics."""
    params = read_params(Params)
    last = task_name(params.num_tasks - 1)
    test = load_test_set(params.num_tasks)
    heads = artifacts.load_tensors(artifacts.heads_file(last))
    table = FeatureTable.from_tensors(artifacts.load_tensors(artifacts.features_file(last)))
    queries = artifacts.load_tensors(artifacts.TEST_QUERIES)["queries"]
    directions = functional.normalize(queries, dim=1)
    keys = artifacts.load_tensors(artifacts.KEYS)["keys"][: params.num_tasks]

    features_of = {  # features of images after a step, and the head for them
        "c_ln": ("tuned", lambda step, image: table.lookup(image, table.selected[step, image])),
        "single_stage": ("auxiliary", lambda step, image: table.lookup(image, table.selected[step, image])),
        "oracle": ("tuned", lambda _, image: table.lookup(image, test.tasks[image])),
        "frozen": ("frozen", lambda _, image: queries[image]),
        "frozen_ncm": ("frozen_ncm", lambda _, image: directions[image]),
    }
    matrices = {}
    for row, (name, features_at) in features_of.items():
        head = Head(heads[f"{name}.weight"], heads[f"{name}.bias"])
        matrices[row] = accuracy_matrix(test, step_predictions(test, head, features_at))

    selection = selection_matrix(test, table.selected[-1])
    passes = (len(test.tasks) + int(table.tuned_passes.sum())) / len(test.tasks)
    c_ln = matrices["c_ln"]
    values = {
        "average_accuracy": metrics.average_accuracy(c_ln),
        "average_incremental_accuracy": metrics.average_incremental_accuracy(c_ln),
        "forgetting": metrics.forgetting(c_ln),
        "forgetting_clipped": metrics.forgetting(c_ln, clipped=True),
        "selection_accuracy": float((selection.diag() / selection.sum(1)).mean()),
        "single_stage_accuracy": metrics.average_accuracy(matrices["single_stage"]),
        "oracle_accuracy": metrics.average_accuracy(matrices["oracle"]),
        "frozen_accuracy": metrics.average_accuracy(matrices["frozen"]),
        "frozen_ncm_accuracy": metrics.average_accuracy(matrices["frozen_ncm"]),
        "passes_per_image": passes,
    }
    artifacts.save_json(artifacts.METRICS, {name: round(value, 6) for name, value in values.items()})
    artifacts.save_json(
        artifacts.EVALUATION,
        {
            "matrices": {name: triangle(matrix) for name, matrix in matrices.items()},
            "selection": selection.tolist(),
            "key_similarity": cosine(keys, keys).tolist(),
            "test_images": len(test.tasks),
            "tuned_passes": table.tuned_passes.tolist(),
        },
    )
    save_plots(matrices, test, table.selected[-1])


def triangle(matrix: Matrix) -> list[list[float]]:
    """The rows of an accuracy matrix up to the diagonal, as JSON has no NaN."""
    return [[round(value, 6) for value in row[: step + 1].tolist()] for step, row in enumerate(matrix)]


def save_plots(matrices: dict[str, Matrix], test: EvaluationSet, selected: Tensor) -> None:
    """The tables behind DVC's plots, which sort task numbers as text."""
    digits = len(str(test.num_tasks))
    numbers = [f"{task:0{digits}}" for task in range(1, test.num_tasks + 1)]
    cells = [
        (numbers[step], numbers[task], round(float(matrices["c_ln"][step, task]), 6))
        for step in range(test.num_tasks)
        for task in range(step + 1)
    ]
    artifacts.save_csv(artifacts.ACCURACY_MATRIX, ("after_task", "on_task", "accuracy"), cells)
    curves = zip(*(metrics.average_accuracies(matrices[name]) for name in ("c_ln", "oracle", "frozen")), strict=True)
    steps = [(step, *(round(value, 6) for value in values)) for step, values in enumerate(curves, start=1)]
    artifacts.save_csv(artifacts.ACCURACY_OVER_TASKS, ("tasks_learned", "c_ln", "oracle", "frozen"), steps)
    images = [(numbers[own], numbers[chosen]) for own, chosen in torch.stack([test.tasks, selected], 1).tolist()]
    artifacts.save_csv(artifacts.SELECTION, ("true_task", "selected_task"), images)


if __name__ == "__main__":
    run(main)
