"""Every variant of the paper and every baseline through all stages: what it changes, stores and costs."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.stage_order import run_stage, run_stages
from harness.stage_repository import TEST_PER_CLASS, TRAIN_PER_CLASS, digests, run_all
from pipeline.__main__ import app
from pipeline.classification.classifier import find_classifier
from pipeline.evaluation.methods import ACCURACIES, METHODS
from pipeline.inference.feature_table import FeatureTable
from pipeline.linear.gaussians import SHRINKAGE
from pipeline.parts import names
from pipeline.store import artifacts

NORMS = 5  # of the tiny ViT, 16 wide


def run_variant(**changes: object) -> dict[str, float]:
    """Metrics of the whole pipeline with other parameters."""
    set_params(Path("params.yaml"), **changes)
    run_all(3)
    metrics: dict[str, float] = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    return metrics


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"layernorm.norms": "attention"}, 2 * 2 * 16),
        ({"layernorm.norms": "mlp", "layernorm.parameters": "scale"}, 2 * 16),
        ({"layernorm.norms": "final", "layernorm.parameters": "bias"}, 16),
        ({"layernorm.norms": "last_1"}, 3 * 2 * 16),
        ({"tuning": "layerwise"}, NORMS * 3 * 16),
        ({"tuning": "layerwise", "layerwise.attention": True, "layerwise.norms": "last_1"}, 3 * 4 * 16),
        ({"tuning": "layerwise", "layerwise.parameters": "scale"}, NORMS * 2 * 16),
        ({"tuning": "ia3"}, 2 * (2 * 16 + 32)),
        ({"tuning": "lora"}, 2 * 4 * (16 + 48)),
        ({"tuning": "lora", "lora.rank": 2, "lora.mlp": True}, 2 * 2 * (16 + 48 + 2 * (16 + 32))),
        ({"tuning": "none"}, 0),
    ],
)
def test_a_task_stores_what_it_tunes(changes: dict[str, object], parameters: int) -> None:
    assert run_variant(**changes)["task_parameters"] == parameters
    bank = load_file(artifacts.bank_file("t3"))
    assert all(len(rows) == 3 for rows in bank.values())


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "at_inference", "whole_matrix"),
    [
        ({"selection": "oracle"}, 1, 1),
        ({"selection": "average"}, 1, 2),
        ({"selection": "average", "tuning": "lora"}, 1, 2),
        ({"selection": "latest"}, 1, 2),  # every image anew at every step: (3 + 1) / 2
        ({"tuning": "layerwise"}, 1, 2),
        ({"tuning": "none"}, 1, 1),
        ({"selector": "entropy"}, 3, 3),  # every image under every task's LayerNorms, each once
        ({"selector": "entropy", "tuning": "none"}, 1, 1),
        ({"tuning": "full", "selection": "latest", "lr": 0.001}, 1, 2),
    ],
)
def test_passes_are_counted(changes: dict[str, object], at_inference: int, whole_matrix: float) -> None:
    metrics = run_variant(**changes)
    assert metrics["passes_at_inference"] == at_inference
    assert metrics["passes_per_image"] == pytest.approx(whole_matrix)


@pytest.mark.usefixtures("tiny_repository")
def test_the_oracle_selects_right_and_equals_its_own_row() -> None:
    assert run_variant(selection="oracle")["selection_accuracy"] == 1
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    assert matrices["c_ln"] == matrices["oracle"]


@pytest.mark.usefixtures("tiny_repository")
def test_without_tuning_everything_is_the_frozen_backbone() -> None:
    run_variant(tuning="none")
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    assert matrices["c_ln"] == matrices["frozen"]
    assert matrices["c_ln_lda"] == matrices["frozen_lda"]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({}, set()),
        ({"tuning": "layerwise"}, set()),
        ({"selection": "oracle"}, set()),
        ({"selection": "latest"}, {"oracle_accuracy", "selection_accuracy"}),
        ({"selection": "average", "classifier": "carried_gaussians"}, {"oracle_accuracy", "selection_accuracy"}),
        ({"selection": "latest", "order": "joint"}, {"oracle_accuracy", "selection_accuracy"}),
        ({"selection": "latest", "tuning": "full", "lr": 0.001}, {"oracle_accuracy", "selection_accuracy"}),
        ({"tuning": "none"}, {"oracle_accuracy", "selection_accuracy", "single_stage_accuracy"}),
        ({"num_tasks": 1}, {"selection_accuracy", "forgetting", "forgetting_clipped"}),
    ],
)
def test_a_metric_that_means_nothing_is_absent_everywhere(changes: dict[str, object], absent: set[str]) -> None:
    set_params(Path("params.yaml"), **changes)
    run_all(int(str(changes.get("num_tasks", 3))))
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    every = {*ACCURACIES.values(), "selection_accuracy", "forgetting", "forgetting_clipped"}
    assert every - metrics.keys() == absent
    assert json.loads(artifacts.METRICS.read_text()) == metrics
    assert all(math.isfinite(value) for value in metrics.values())
    names = {METHODS[row] for row, metric in ACCURACIES.items() if metric in metrics}
    with artifacts.ACCURACY_OVER_TASKS.open() as table:
        assert {line["method"] for line in csv.DictReader(table)} == names
    report = artifacts.REPORT.read_text()
    assert {name for name in METHODS.values() if f"| {name} |" in report} == names
    assert artifacts.SELECTION.read_text().count("none") == (3 if "oracle_accuracy" in absent else 0) + (
        changes == {"num_tasks": 1}
    )
    assert (artifacts.FIGURES / "selection.png").exists() == ("selection_accuracy" in metrics)
    summary = CliRunner().invoke(app, ["summary"])
    assert summary.exit_code == 0
    assert ("selected for" in summary.output) == ("selection_accuracy" in metrics)
    assert "the best baseline" in " ".join(summary.output.split())


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("changes", [{}, {"tuning": "layerwise"}, {"selection": "average"}, {"selection": "latest"}])
def test_the_row_of_the_discriminant_is_that_of_the_discriminant_as_classifier(changes: dict[str, object]) -> None:
    run_variant(**changes)
    before = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    set_params(Path("params.yaml"), classifier="lda")
    for task in ("t1", "t2", "t3"):
        run_stage("stage_two", task)
    run_stage("evaluate")
    after = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    assert before["c_ln_lda"] == after["c_ln_lda"] == after["c_ln"]
    assert before["frozen_lda"] == after["frozen_lda"] == after["frozen"]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("changes", [{}, {"order": "joint", "selection": "latest"}])
def test_the_discriminants_are_those_of_scikit_learn_on_all_classes(changes: dict[str, object]) -> None:
    """scikit-learn sees all training images at once; here each task only adds its statistics."""
    run_variant(**changes)
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    names = ["t3"] if changes else ["t1", "t2", "t3"]
    starts = [0] if changes else [0, 2, 4]
    trains = [
        load_file(artifacts.train_file(name))["labels"] + start for name, start in zip(names, starts, strict=True)
    ]
    test, queries = load_file(artifacts.TEST), load_file(artifacts.features_file("t3"))["test_queries"]
    of_train = {"frozen_lda": [load_file(artifacts.train_queries_file(name))["queries"] for name in names]}
    of_test = {"frozen_lda": queries}
    if changes:  # the row of the one model
        table = FeatureTable.from_tensors(load_file(artifacts.features_file("t3")))
        of_train["c_ln_lda"] = [load_file(artifacts.features_file("t3"))["own_features"]]
        of_test["c_ln_lda"] = table.after(2, torch.arange(len(of_test["frozen_lda"])))
    for row, features in of_train.items():
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE, priors=[1 / 6] * 6)
        lda.fit(torch.cat(features).double().numpy(), torch.cat(trains).numpy())
        right = lda.predict(of_test[row].double().numpy()) == test["labels"][test["tasks"] < 3].numpy()
        assert sum(matrices[row][-1]) / 3 == pytest.approx(right.mean(), abs=1e-6)


@pytest.mark.usefixtures("tiny_repository")
def test_a_single_training_stage_uses_the_head_of_stage_one() -> None:
    run_variant(training="single_stage")
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    assert matrices["c_ln"] == matrices["single_stage"]
    heads = load_file(artifacts.heads_file("t3"))
    assert torch.equal(heads["tuned.head.weight"], heads["auxiliary.head.weight"])


@pytest.mark.usefixtures("tiny_repository")
def test_joint_training_sees_all_images_so_far_and_is_one_model() -> None:
    metrics = run_variant(order="joint", selection="latest")
    counts = [len(load_file(artifacts.train_file(f"t{t}"))["labels"]) for t in (1, 2, 3)]
    assert counts == [2 * TRAIN_PER_CLASS * t for t in (1, 2, 3)]
    assert load_file(artifacts.train_file("t3"))["labels"].unique().tolist() == list(range(6))
    assert load_file(artifacts.heads_file("t3"))["tuned.head.ends"].tolist() == [2, 2 + 4, 2 + 4 + 6]
    assert 0 <= metrics["average_accuracy"] <= 1
    assert artifacts.load_json(artifacts.EVALUATION)["test_images"] == 6 * TEST_PER_CLASS


@pytest.mark.usefixtures("tiny_repository")
def test_full_tuning_changes_every_parameter_and_keeps_one_model() -> None:
    run_variant(tuning="full", selection="latest", lr=0.01)
    model, pretrained = load_file(artifacts.bank_file("t3")), load_file(artifacts.BACKBONE)
    assert model.keys() == pretrained.keys()
    assert all(len(rows) == 1 for rows in model.values())
    assert not any(torch.equal(model[name][0], tensor) for name, tensor in pretrained.items())


@pytest.mark.usefixtures("tiny_repository")
def test_every_task_may_start_from_the_pretrained_layernorms() -> None:
    """A task then does not depend on what earlier tasks learned, only on its own random numbers."""
    run_variant(tuning_init="pretrained")
    before = load_file(artifacts.bank_file("t3"))
    set_params(Path("params.yaml"), lr=0.05)
    run_stage("stage_one", "t2")  # another t2
    set_params(Path("params.yaml"), lr=0.01)
    run_stage("stage_one", "t3")
    after = load_file(artifacts.bank_file("t3"))
    assert all(torch.equal(after[name][2], rows[2]) for name, rows in before.items())
    assert not all(torch.equal(after[name][1], rows[1]) for name, rows in before.items())


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("changes", [{}, {"tuning": "layerwise"}, {"selection": "oracle"}])
def test_views_are_one_more_axis_and_without_augmentation_the_only_one_is_the_image(changes: dict[str, object]) -> None:
    run_variant(**changes)
    clean = load_file(artifacts.features_file("t3"))["train_features"]
    set_params(Path("params.yaml"), classifier_views=2)
    run_stage("features", "t3")
    views = load_file(artifacts.features_file("t3"))["train_features"]
    assert torch.equal(views, clean), "without augmentation there is only one view"
    set_params(Path("params.yaml"), min_crop=0.3)
    run_stage("features", "t3")
    crops = load_file(artifacts.features_file("t3"))["train_features"]
    assert not torch.allclose(crops[0], crops[1], atol=1e-2)
    run_stage("stage_two", "t3")


@pytest.mark.usefixtures("tiny_repository")
def test_trained_keys_and_a_given_start_change_what_they_should() -> None:
    run_variant()
    before = digests("artifacts")
    set_params(Path("params.yaml"), key_method="sgd", classifier_init="auxiliary")
    run_stages(3, {"keys"})
    run_stage("stage_two", "t1")
    changed = {path for path, digest in digests("artifacts").items() if before[path] != digest}
    states = {f"artifacts/selectors/t{task}.safetensors" for task in range(1, 4)}
    keys = {f"artifacts/keys/t{task}.safetensors" for task in range(1, 4)}
    assert changed == {"artifacts/heads/t1.safetensors", *keys, *states}


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize("selector", names("selector"))
def test_another_selector_runs_on_finished_layernorms(selector: str) -> None:
    before = digests("artifacts/banks", "artifacts/queries")
    set_params(Path("params.yaml"), selector=selector)
    for name in ("keys", "features", "stage_two"):
        for task in ("t1", "t2", "t3"):
            run_stage(name, task)
    run_stage("evaluate")
    assert digests("artifacts/banks", "artifacts/queries") == before
    assert artifacts.load_json(artifacts.EVALUATION)["metrics"]["selection_accuracy"] > 0.2
    table = load_file(artifacts.features_file("t3"))
    pairs = set(zip(table["image"].tolist(), table["task"].tolist(), strict=True))
    assert len(pairs) == len(table["image"]), "no pass twice"


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    "classifier", [name for name in names("classifier") if not find_classifier(name).needs_one_model]
)
def test_another_classifier_runs_without_a_backbone(classifier: str) -> None:
    artifacts.save_weights(artifacts.BACKBONE, {}, {})  # nothing is left of it
    set_params(Path("params.yaml"), classifier=classifier)
    for task in ("t1", "t2", "t3"):
        run_stage("stage_two", task)
    run_stage("evaluate")
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert metrics["average_accuracy"] > 0.15
    assert metrics["bytes_per_task"] > 0


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize("correction", ["arc", "arc_retention", "rematch"])
def test_a_correction_changes_the_row_of_c_ln_only_and_is_named(correction: str) -> None:
    before = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    set_params(Path("params.yaml"), correction=correction, arc_gamma=9.0, arc_beta=0.0, arc_lr=0.1)
    for name in ("rematch", "evaluate", "report"):
        run_stage(name)
    after = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    if correction != "rematch":  # whose other answers need not be better or worse
        assert after["c_ln"] != before["c_ln"]
    assert {name: matrix for name, matrix in after.items() if name != "c_ln"} == {
        name: matrix for name, matrix in before.items() if name != "c_ln"
    }
    assert (artifacts.load_json(artifacts.EVALUATION)["metrics"]["passes_at_inference"] > 2) == (
        correction == "rematch"
    )
    report = artifacts.REPORT.read_text()
    assert ("transductive" in report) == (correction == "arc_retention")
    assert ("re-matched" in report) == (correction == "rematch")
