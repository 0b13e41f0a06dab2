"""Render the report and its figures from the results of evaluate."""

import numpy as np

from pipeline.classification.classifier import find_classifier
from pipeline.evaluation import metrics
from pipeline.evaluation.methods import METHODS
from pipeline.evaluation.settings import SettingName
from pipeline.inference.method import Method
from pipeline.params import Record, read_block, read_params
from pipeline.report.figures import curves, heat_map
from pipeline.report.markdown import Result, Row, render
from pipeline.runtime.command import run
from pipeline.selection.choose import SELECTIONS, SelectionName
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.tuning.kind import find_kind


class Params(Record):
    """The parameters that the report mentions. The stages that use them have checked them."""

    dataset: str
    setting: SettingName
    split: str
    classes_per_task: int
    first_task_classes: int
    class_order: str
    task_classes: list[list[str]]
    task_order: str
    num_tasks: int
    seed: int
    order: str
    evaluate_on: str
    backbone: str
    image_size: int
    normalize: str
    features: str
    tuning: str
    tuning_init: str
    tuned_tasks: str
    lr: float
    batch_size: int
    epochs: int
    min_crop: float
    flip: bool
    optimiser: str
    lr_schedule: str
    weight_decay: float
    head_speed: float
    selection: SelectionName
    selector: str
    average_scale: float
    key_method: str
    training: str
    classifier: str
    classifier_init: str
    classifier_views: int
    classifier_lr: float
    classifier_batch_size: int
    classifier_epochs: int
    correction: str


def main() -> None:
    """Render reports/report.md and reports/figures."""
    params = read_params(Params)
    evaluation = artifacts.load_json(artifacts.EVALUATION)
    matrices = {name: metrics.square(rows) for name, rows in evaluation["matrices"].items()}
    kind = find_kind(params.tuning)
    options = {f"{params.tuning}.{name}": value for name, value in read_block(params.tuning, kind.options)}
    classifier = find_classifier(params.classifier)
    block = read_block(params.classifier, classifier.options)
    options |= {f"{params.classifier}.{name}": value for name, value in block}
    result = Result(
        params=params.model_dump() | options,
        tasks=evaluation["tasks"],
        backbone=evaluation["backbone"],
        metrics=evaluation["metrics"],
        rows={name: summary(matrix) for name, matrix in matrices.items()},
        test_images=evaluation["test_images"],
        domains=evaluation["domains"],
        shares_test=evaluation["shares_test"],
        matrix=evaluation["matrices"]["c_ln"],
        keys_choose=evaluation["key_similarity"] is not None,
        method=Method(kind, SELECTIONS[params.selection], find_selector(params.selector), params.average_scale),
        classifier=classifier if params.training == "two_stage" else None,
    )
    accuracies = {name: metrics.average_accuracies(matrix) for name, matrix in matrices.items()}
    c_ln = evaluation["matrices"]["c_ln"]
    forgetting = [] if evaluation["shares_test"] else metrics.forgetting_over_steps(matrices["c_ln"])
    figures = {"over_tasks": curves(accuracies, forgetting, METHODS)}
    if not evaluation["shares_test"]:
        figures["accuracy_matrix"] = heat_map(c_ln, x="on task", y="after task", label="accuracy (%)")
    if evaluation["selection"] is not None:
        selection = np.array(evaluation["selection"])
        shares = (selection / selection.sum(1, keepdims=True)).tolist()
        figures["selection"] = heat_map(shares, x="selected task", y="true task", label="images (%)")
    if evaluation["key_similarity"] is not None:
        figures["key_similarity"] = heat_map(evaluation["key_similarity"], x="key", y="key", label="cosine (x 100)")
    for name, content in figures.items():
        artifacts.save_bytes(artifacts.FIGURES / f"{name}.png", content)
    artifacts.save_bytes(artifacts.REPORT, render(result).encode())


def summary(matrix: metrics.Matrix) -> Row:
    """Average accuracy, average incremental accuracy and forgetting."""
    return (
        metrics.average_accuracy(matrix),
        metrics.average_incremental_accuracy(matrix),
        metrics.forgetting(matrix) if metrics.has_forgetting(matrix) else None,
    )


if __name__ == "__main__":
    run(main)
