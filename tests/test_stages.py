"""The stages in a temporary repository, with a tiny ViT and a tiny data set: what they read, write and never change."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_CONFIG, random_images, tiny_weights
from imports import ROOT
from parameters import PLAIN, set_params
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pipeline import artifacts
from pipeline.__main__ import app
from pipeline.errors import UserError
from pipeline.params import read_mapping
from pipeline.tasks import chain

CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS = 8, 10, 5


def write_raw_data() -> None:
    """Eight classes of noise around a colour, in two groups, and a tiny backbone, as download would leave them."""
    colours = random_images(CLASSES, seed=9, size=1).float()
    for file, count, seed in ((artifacts.RAW_TRAIN, TRAIN_PER_CLASS, 1), (artifacts.RAW_TEST, TEST_PER_CLASS, 2)):
        labels = torch.arange(CLASSES).repeat_interleave(count)
        images = 0.6 * colours[labels] + 0.4 * random_images(len(labels), seed).float()
        artifacts.save_images(file, iter(images.to(torch.uint8)), {"labels": labels})
    names = [f"class {c}" for c in range(CLASSES)]
    artifacts.save_json(artifacts.RAW_CLASSES, {"classes": names, "groups": ["even", "odd"] * (CLASSES // 2)})
    save_file(tiny_weights(), artifacts.BACKBONE, {"config": json.dumps(TINY_CONFIG)})


def run_stage(name: str, *arguments: str) -> None:
    importlib.import_module(f"stages.{name}").main(*arguments)


def run_all(tasks: int) -> None:
    """Every stage but download, in DVC's order."""
    run_stage("split")
    run_stage("keys")
    for name in ("stage_one", "features", "stage_two"):
        for task in range(1, tasks + 1):
            run_stage(name, f"t{task}")
    run_stage("evaluate")
    run_stage("report")


def digests(*folders: str) -> dict[str, str]:
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def make_repository(folder: Path) -> None:
    """In the working folder: the project's own dvc.yaml and params.yaml, for three tasks of two classes."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / "params.yaml", folder)
    write_raw_data()
    set_params(Path("params.yaml"), **PLAIN | {"classes_per_task": 2, "image_size": 16}, epochs=2, classifier_epochs=3)
    assert CliRunner().invoke(app, ["plan", "3"]).exit_code == 0


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which nothing has run; the working folder."""
    monkeypatch.chdir(tmp_path)
    make_repository(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every stage has run."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_repository(folder)
        run_all(3)
    return folder


@pytest.fixture
def finished(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.usefixtures("finished")
def test_metrics_are_the_promised_ones_and_consistent() -> None:
    metrics = artifacts.load_json(artifacts.METRICS)
    assert list(metrics) == [
        "average_accuracy",
        "average_incremental_accuracy",
        "forgetting",
        "forgetting_clipped",
        "selection_accuracy",
        "single_stage_accuracy",
        "oracle_accuracy",
        "frozen_accuracy",
        "frozen_ncm_accuracy",
        "passes_per_image",
    ]
    assert all(isinstance(value, float) for value in metrics.values())
    evaluation = artifacts.load_json(artifacts.EVALUATION)
    assert metrics["average_accuracy"] == pytest.approx(sum(evaluation["matrices"]["c_ln"][-1]) / 3, abs=1e-6)
    assert [len(row) for row in evaluation["matrices"]["c_ln"]] == [1, 2, 3]
    images = evaluation["test_images"]
    assert images == 3 * 2 * TEST_PER_CLASS
    assert metrics["passes_per_image"] == pytest.approx(1 + sum(evaluation["tuned_passes"]) / images, abs=1e-6)
    assert 2 <= metrics["passes_per_image"] <= 1 + (3 + 1) / 2
    assert sum(map(sum, evaluation["selection"])) == images


@pytest.mark.usefixtures("finished")
def test_first_step_is_the_same_for_the_selector_and_the_oracle() -> None:
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    assert matrices["c_ln"][0] == matrices["oracle"][0]


def test_two_runs_give_identical_bytes(repository: Path) -> None:
    run_all(3)
    first = digests("data", "artifacts", "reports")
    for folder in ("artifacts", "reports", "data/train"):
        shutil.rmtree(repository / folder)
    run_all(3)
    assert digests("data", "artifacts", "reports") == first
    assert len(first) > 30


@pytest.mark.usefixtures("finished")
def test_one_more_task_leaves_every_earlier_file_as_it_was() -> None:
    before = digests("data", "artifacts/layernorms", "artifacts/features", "artifacts/heads", "artifacts/queries")
    assert CliRunner().invoke(app, ["plan", "4"]).exit_code == 0
    run_stage("split")
    run_stage("keys")
    for name in ("stage_one", "features", "stage_two"):
        run_stage(name, "t4")
    run_stage("evaluate")
    after = digests("data", "artifacts")
    assert {path: after[path] for path in before} == before
    for file in (artifacts.layernorms_file, artifacts.heads_file):
        old, new = load_file(file("t3")), load_file(file("t4"))
        assert all(torch.equal(new[name][: len(rows)], rows) for name, rows in old.items())
        assert all(len(new[name]) > len(rows) for name, rows in old.items())
    assert len(artifacts.load_json(artifacts.EVALUATION)["matrices"]["c_ln"]) == 4


@pytest.mark.usefixtures("finished")
def test_a_task_is_trained_on_its_own_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsal-free: with every other task's training images gone, t2 comes out the same."""
    before = digests("artifacts/layernorms", "artifacts/features", "artifacts/heads")
    read: list[Path] = []
    load = artifacts.load_tensors

    def load_and_note(path: Path) -> dict[str, torch.Tensor]:
        read.append(path)
        return load(path)

    monkeypatch.setattr(artifacts, "load_tensors", load_and_note)
    for other in ("t1", "t3", "t4"):
        artifacts.train_file(other).unlink()
        artifacts.train_queries_file(other).unlink()
    for name in ("stage_one", "features", "stage_two"):
        run_stage(name, "t2")
    assert digests("artifacts/layernorms", "artifacts/features", "artifacts/heads") == before
    features_of_old_tasks = load(artifacts.features_file("t2"))["train_features"]
    assert len(features_of_old_tasks) == 2 * TRAIN_PER_CLASS  # t2's own, nothing carried from t1
    assert artifacts.train_file("t2") in read


@pytest.mark.usefixtures("finished")
def test_stage_two_and_evaluation_need_no_backbone() -> None:
    artifacts.BACKBONE.unlink()
    set_params(Path("params.yaml"), classifier_lr=0.5)
    for task in ("t1", "t2", "t3"):
        run_stage("stage_two", task)
    run_stage("evaluate")
    run_stage("report")


@pytest.mark.usefixtures("repository")
def test_validation_images_come_from_the_training_images() -> None:
    set_params(Path("params.yaml"), evaluate_on="validation")
    run_stage("split")
    train = load_file(artifacts.RAW_TRAIN)["images"]
    raw = {image.numpy().tobytes() for image in train}
    parts = [load_file(artifacts.train_file(f"t{t}"))["images"] for t in range(1, 5)]
    kept = {image.numpy().tobytes() for part in parts for image in part}
    held_out = {image.numpy().tobytes() for image in load_file(artifacts.TEST)["images"]}
    assert kept | held_out == raw
    assert not kept & held_out
    assert len(held_out) == CLASSES * TRAIN_PER_CLASS // 5


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": 99}, "num_tasks is 99, but tasks ends at t3"),
        ({"classes_per_task": 4}, "tasks has 3 tasks, the data set only classes for 2"),
        ({"tasks": {1: {"prev": "t0"}}}, r"tasks\.1: input should be a valid string"),
        ({"tasks": {"t1": {"prev": "t0"}, "t2": {"prev": "t2"}}}, "not a chain"),
        ({"task_classes": [["class 0"], ["clas 1"]]}, "no class 'clas 1': did you mean 'class 1'"),
        ({"task_classes": [["class 0"], ["class 0"]]}, "class 'class 0' comes twice"),
        ({"task_classes": [["class 0"], []]}, r"task_classes\.1: list should have at least 1 item"),
        ({"task_classes": [["class 0"]]}, "tasks has 3 tasks, the data set only classes for 1"),
        ({"evaluate_on": "train"}, "evaluate_on: input should be 'test' or 'validation'"),
    ],
)
def test_split_refuses_a_chain_that_disagrees(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), **changes)
    with pytest.raises(UserError, match=message):
        run_stage("split")
    assert not artifacts.TASKS.exists()


@pytest.mark.usefixtures("repository")
def test_tasks_of_unequal_size_given_by_name_run_through() -> None:
    """Also a class more for a later task leaves what earlier tasks learned as it was."""
    tasks = [["class 5"], ["class 0", "class 7", "class 2"], ["class 1", "class 3"]]
    set_params(Path("params.yaml"), task_classes=tasks)
    run_all(3)
    assert list(artifacts.load_json(artifacts.TASKS).values()) == tasks
    assert len(load_file(artifacts.heads_file("t3"))["tuned.weight"]) == 6
    assert artifacts.load_json(artifacts.EVALUATION)["test_images"] == 6 * TEST_PER_CLASS
    before = digests("data/train", "artifacts/layernorms")
    set_params(Path("params.yaml"), task_classes=[*tasks[:2], [*tasks[2], "class 4"]])
    run_stage("split")
    run_stage("keys")
    for task in ("t1", "t2", "t3"):
        run_stage("stage_one", task)
    changed = {path for path, digest in digests("data/train", "artifacts/layernorms").items() if before[path] != digest}
    assert changed == {"data/train/t3.safetensors", "artifacts/layernorms/t3.safetensors"}


@pytest.mark.usefixtures("finished")
def test_predict_names_what_the_evaluation_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Image files of test images get the tasks and classes that the pipeline computed for them."""
    test = load_file(artifacts.TEST)
    names = [name for names in artifacts.load_json(artifacts.TASKS).values() for name in names]
    rows = list(range(0, 30, 3))
    files = [Path(f"image{row}.png") for row in rows]
    for row, file in zip(rows, files, strict=True):
        Image.fromarray(test["images"][row].numpy()).save(file)
    capsys.readouterr()
    importlib.import_module("stages.predict").main(files, top=1)
    printed = [line for line in capsys.readouterr().out.splitlines() if "image" in line and ".png" in line]
    table = load_file(artifacts.features_file("t3"))
    heads = load_file(artifacts.heads_file("t3"))
    for row, line in zip(rows, printed, strict=True):
        task = int(table["selected"][-1, row])
        pair = (table["image"] == row) & (table["task"] == task)
        logits = heads["tuned.weight"] @ table["features"][pair][0] + heads["tuned.bias"]
        assert f"t{task + 1}" in line
        assert names[int(logits.argmax())] in line


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"no image", "is not an image that Pillow can read"),
        (b"\x89PNG\r\n\x1a\n", "is not an image that Pillow can read|cannot be read"),
    ],
)
def test_predict_names_a_bad_file(content: bytes | None, message: str) -> None:
    if content is not None:
        Path("bad.png").write_bytes(content)
    with pytest.raises(UserError, match=f"bad.png {message}"):
        importlib.import_module("stages.predict").main([Path("bad.png")])


@pytest.mark.usefixtures("repository")
def test_plan_keeps_comments_and_writes_the_chain() -> None:
    shutil.copy(ROOT / "params.yaml", ".")
    assert CliRunner().invoke(app, ["plan", "5"]).exit_code == 0
    before = Path("params.yaml").read_text()
    assert CliRunner().invoke(app, ["plan", "7"]).exit_code == 0
    after = Path("params.yaml").read_text()
    assert "num_tasks: 7  # how many tasks the report covers" in after
    assert after.endswith("  t7: {prev: t6}\n")
    assert CliRunner().invoke(app, ["plan", "5"]).exit_code == 0
    assert Path("params.yaml").read_text() == before
    assert CliRunner().invoke(app, ["plan", "0"]).exit_code == 2


@pytest.mark.usefixtures("repository")
def test_a_preset_shows_what_it_changes_and_changes_it_when_told() -> None:
    shutil.copy(ROOT / "params.yaml", ".")
    shutil.copytree(ROOT / "presets", "presets")
    set_params(Path("params.yaml"), seed=3)
    before = Path("params.yaml").read_text()
    asked = CliRunner().invoke(app, ["preset", "cifar100"], input="n\n")
    assert "+dataset: cifar100" in asked.output
    assert "+  t10: {prev: t9}" in asked.output
    assert Path("params.yaml").read_text() == before
    for name in ("cifar100", "imagenet_r", "glyphs"):
        assert CliRunner().invoke(app, ["preset", name, "--yes"]).exit_code == 0
        preset = read_mapping(Path(f"presets/{name}.yaml"))
        params = read_mapping(Path("params.yaml"))
        assert {key: params[key] for key in preset} == preset
        assert preset.keys() == params.keys() - {"seed", "tasks", "evaluate_on", "data_dir"}
        assert params["tasks"] == chain(params["num_tasks"])
        assert params["seed"] == 3
    if read_mapping(ROOT / "params.yaml").items() >= read_mapping(ROOT / "presets/glyphs.yaml").items():
        assert Path("params.yaml").read_text() == before  # there and back again, comments and all
    assert "as preset glyphs would have it" in CliRunner().invoke(app, ["preset", "glyphs"]).output
    with pytest.raises(UserError, match="preset 'cifar' is unknown: choose one of cifar100, glyphs, imagenet_r"):
        raise CliRunner().invoke(app, ["preset", "cifar"]).exception or AssertionError


@pytest.mark.usefixtures("finished")
def test_summary_prints_the_headline(capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(app, ["summary"])
    assert result.exit_code == 0, capsys.readouterr()
    accuracy = artifacts.load_json(artifacts.METRICS)["average_accuracy"]
    assert f"{100 * accuracy:.1f}" in result.output
    assert "report: reports/report.md" in result.output


@pytest.mark.usefixtures("finished")
def test_a_missing_artifact_is_named() -> None:
    artifacts.features_file("t3").unlink()
    with pytest.raises(UserError, match=r"features/t3.safetensors is missing: `dvc repro` makes it"):
        run_stage("evaluate")


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(("split", "kind"), [(artifacts.RAW_TRAIN, "training"), (artifacts.RAW_TEST, "test")])
def test_a_class_without_images_is_named(split: Path, kind: str) -> None:
    images = load_file(split)
    kept = images["labels"] != CLASSES - 1
    artifacts.save_images(split, iter(images["images"][kept]), {"labels": images["labels"][kept]})
    with pytest.raises(UserError, match=f"class 'class {CLASSES - 1}' has no {kind} image"):
        run_stage("split")


@pytest.mark.usefixtures("repository")
def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage("split")
    for device in ("gpu", "cuda:99"):
        monkeypatch.setenv("DEVICE", device)
        with pytest.raises(UserError, match=f"DEVICE='{device}' cannot be used"):
            run_stage("keys")


@pytest.mark.usefixtures("repository")
def test_plan_names_what_is_wrong_with_the_file() -> None:
    for content, message in (("lr: [0.1", "not valid YAML"), ("", "expected `name: value` lines")):
        Path("params.yaml").write_text(content)
        with pytest.raises(UserError, match=message):
            raise CliRunner().invoke(app, ["plan", "3"]).exception or AssertionError
