"""predict agrees with the evaluation, picture by picture, even if params.yaml has changed since."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import refusal, run_all
from pipeline.__main__ import app
from pipeline.classification.classifier import find_classifier
from pipeline.classification.classifiers import cls, ridge_projected
from pipeline.data.images import Images
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.manifest import Settings, read_manifest
from pipeline.linear.steps import step_heads
from pipeline.params import read_params
from pipeline.parts import names
from pipeline.selection.choose import SELECTIONS, SelectionName
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from stages import evaluate, predict

PARAMS = Path("params.yaml")
TASKS = ("t1", "t2", "t3")
CHANGING = {"arc_gamma": 9.0, "arc_beta": 0.0, "arc_lr": 0.1}  # corrections that change answers


def images_seen() -> Images:
    test = load_file(artifacts.TEST)
    return Images.from_tensors(test)[test["tasks"] < read_manifest().settings.num_tasks]


def predicted(settings: Settings | None = None) -> torch.Tensor:
    return predict.load_learner(settings or read_manifest().settings).predict(images_seen()).logits.argmax(1)


def evaluated(correction: str | None = None) -> torch.Tensor:
    """The evaluation's answers after the last task, with a correction that differs from params.yaml."""
    params = read_params(evaluate.Params)
    if correction:
        params = params.model_copy(update={"correction": correction})
    test = evaluate.load_test_set(3)
    heads = load_file(artifacts.heads_file("t3"))
    after = step_heads(part(heads, "tuned.head."), heads.get("tuned.projection"))
    table = FeatureTable.from_tensors(load_file(artifacts.features_file("t3")))
    if params.correction == "rematch":
        return load_file(artifacts.REMATCH)["predictions"][-1]
    return evaluate.corrected_predictions(params, test, after, table.after)[-1]


def run_of_tasks(*stages: str) -> None:
    for stage in stages:
        for task in TASKS:
            run_stage(stage, task)


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    ("tuning", "selection", "selector"),
    [
        ("layerwise", "query", "key"),
        ("layernorm", "latest", "key"),
        ("layernorm", "average", "key"),
        ("ia3", "average", "key"),
        ("lora", "average", "key"),
        *(("layernorm", "query", name) for name in names("selector")),
    ],
)
def test_every_combination_predicts_what_the_evaluation_counted(
    tuning: str, selection: SelectionName, selector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge_projected, "UNITS", 50)  # random features are many, and no matter here
    monkeypatch.setattr(cls, "UNITS", 50)
    set_params(PARAMS, tuning=tuning, selection=selection, selector=selector, classifier_epochs=1, **CHANGING)
    run_of_tasks("keys")
    if tuning != "layernorm":
        run_of_tasks("stage_one")
    run_of_tasks("features")
    corrections = ("none", "arc", "arc_retention") + (
        ("rematch",) if (tuning, selection) == ("layernorm", "query") else ()
    )
    corrected = 0
    for classifier in names("classifier"):
        if find_classifier(classifier).needs_one_model and not SELECTIONS[selection].one_model:
            continue
        set_params(PARAMS, classifier=classifier, correction=corrections[-1])
        run_of_tasks("stage_two")
        run_stage("rematch")
        run_stage("evaluate")
        answers = {correction: evaluated(correction) for correction in corrections}
        for correction, expected in answers.items():
            settings = read_manifest().settings.model_copy(update={"correction": correction})
            assert torch.equal(predicted(settings), expected), (classifier, correction)
        corrected += sum(not torch.equal(answers["none"], other) for other in answers.values())
    assert corrected > 3, "corrections that correct nothing show nothing"


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {"selection": "latest", "tuning": "full"},
        {"tuning": "none"},
        {"tuning": "none", "selector": "entropy"},
        {"tuning": "none", "correction": "arc"},
        {"selection": "latest", "order": "joint", "correction": "arc_retention"},
        {"tuning": "ia3", "correction": "rematch"},
        {
            "tuning": "lora",
            "lora.mlp": True,
            "correction": "rematch",
            "selector": "entropy",
            "classifier_views": 2,
            "flip": True,
        },
        {"selection": "average", "average_scale": 0.75, "correction": "arc_retention"},
        {"training": "single_stage", "correction": "rematch"},
        {"layernorm.norms": "last_1", "layernorm.parameters": "bias", "correction": "rematch", "selector": "lda"},
    ],
)
def test_so_does_every_way_of_tuning(changes: dict[str, object]) -> None:
    set_params(PARAMS, **CHANGING | changes)
    run_all(3)
    answers = evaluated()
    assert torch.equal(predicted(), answers)
    accuracy = artifacts.load_json(artifacts.EVALUATION)["metrics"]["average_accuracy"]
    right = answers == load_file(artifacts.TEST)["labels"][: len(answers)]
    assert float(right.float().mean()) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.usefixtures("tiny_finished")
def test_a_learner_that_is_told_the_task_cannot_predict() -> None:
    set_params(PARAMS, selection="oracle")
    run_of_tasks("features", "stage_two")
    run_stage("evaluate")
    assert "made with selection: oracle, which needs the true task of an image" in refusal(predicted)


def answer(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The output and the notes of predict for a test image."""
    Image.fromarray(load_file(artifacts.TEST)["images"][7].numpy()).save("image.png")
    capsys.readouterr()
    predict.main([Path("image.png")])
    return capsys.readouterr()


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"lr": 0.5}, ""),  # no matter for inference
        ({"selector": "gmm"}, "this learner was made with selector: key; params.yaml now says selector: gmm: `dvc rep"),
        ({"selector": "lda", "classifier": "lda"}, "params.yaml now says selector: lda"),
        ({"tuning": "layerwise"}, "params.yaml now says tuning: layerwise"),
        ({"selection": "average", "tuning": "full"}, "now says selection: average, tuning: full"),
        ({"image_size": 8, "normalize": "none"}, "now says image_size: 8, normalize: none"),
        ({"image_size": "wide"}, "now says image_size: wide"),
        ({"correction": "rematch"}, "now says correction: rematch"),
        ({"tuning": "none"}, "now says tuning: none"),
        ({"num_tasks": 5}, "made with num_tasks: 3; params.yaml now says num_tasks: 5"),
    ],
)
def test_what_made_the_learner_decides(
    changes: dict[str, object], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = answer(capsys)
    assert before[1] == ""
    set_params(PARAMS, **changes)
    after = answer(capsys)
    assert after[0] == before[0]
    assert note in after[1]
    assert (after[1].count("\n") == 1) == bool(note)


@pytest.mark.usefixtures("tiny_finished")
def test_files_of_several_runs_are_no_learner(capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted run leaves its newest files beside the manifest of the run before."""
    before = answer(capsys)
    set_params(PARAMS, seed=1)
    run_stage("stage_two", "t1")  # not among the files of the learner
    assert answer(capsys)[0] == before[0]
    for stage, file in (
        ("stage_one", "artifacts/banks/t3.safetensors"),
        ("features", "artifacts/features/t3.safetensors"),
        ("stage_two", "artifacts/heads/t3.safetensors"),
    ):
        kept = {path: path.read_bytes() for path in Path("artifacts").rglob("t3.safetensors")}
        run_stage(stage, "t3")
        if stage == "features":  # of the same LayerNorms they are the same, so let the pictures be others
            set_params(PARAMS, image_size=8)
            run_stage(stage, "t3")
            set_params(PARAMS, image_size=16)
        refused = refusal(predicted)
        assert f"{file} is from another run than artifacts/learner.json: run `dvc repro` or" in refused, stage
        for path, content in kept.items():
            path.write_bytes(content)
    assert answer(capsys)[0] == before[0]


@pytest.mark.usefixtures("tiny_finished")
def test_one_more_task_is_predicted_once_it_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    before = answer(capsys)
    assert CliRunner().invoke(app, ["plan", "4"]).exit_code == 0
    run_stage("split")
    for stage in ("queries", "keys", "stage_one"):
        run_stage(stage, "t4")
    assert answer(capsys)[0] == before[0]
    run_stage("features", "t4")
    run_stage("stage_two", "t4")
    run_stage("rematch")
    run_stage("evaluate")
    assert answer(capsys)[1] == ""
    assert len(read_manifest().tasks) == 4


@pytest.mark.usefixtures("tiny_finished")
def test_a_learner_that_is_missing_in_part_or_of_another_version_is_one_line() -> None:
    artifacts.heads_file("t3").rename("elsewhere")
    assert refusal(predicted) == (
        "artifacts/heads/t3.safetensors is missing: `dvc repro` makes it, or `dvc checkout` restores it; "
        "if neither does, `python -m pipeline doctor --repair`, then `dvc repro`"
    )
    Path("elsewhere").rename(artifacts.heads_file("t3"))
    manifest = artifacts.load_json(artifacts.LEARNER)
    del manifest["settings"]["selector"]
    artifacts.save_json(artifacts.LEARNER, manifest)
    assert refusal(predicted) == "artifacts/learner.json is from another version of this project: `dvc repro` first"
    artifacts.LEARNER.unlink()
    assert refusal(predicted).startswith("artifacts/learner.json is missing: `dvc repro` makes it")
