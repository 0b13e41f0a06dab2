"""The stages in a temporary repository, with a tiny ViT and a tiny data set: what they read, write and never change."""

import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import CLASSES, TEST_PER_CLASS, TRAIN_PER_CLASS, digests, prepare, run_all
from harness.tiny import random_images
from pipeline.__main__ import app
from pipeline.data.images import Images
from pipeline.data.packing import content_numbers, stored
from pipeline.errors import UserError
from pipeline.store import artifacts


@pytest.mark.usefixtures("tiny_finished")
def test_metrics_are_the_promised_ones_and_consistent() -> None:
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert list(metrics) == [
        "average_accuracy",
        "average_incremental_accuracy",
        "accuracy_over_images",
        "incremental_accuracy_over_images",
        "forgetting",
        "forgetting_clipped",
        "selection_accuracy",
        "c_ln_lda_accuracy",
        "single_stage_accuracy",
        "oracle_accuracy",
        "frozen_accuracy",
        "frozen_ncm_accuracy",
        "frozen_lda_accuracy",
        "passes_per_image",
        "passes_at_inference",
        "gflop_at_inference",
        "bytes_per_task",
        "task_parameters",
        "training_images",
        "test_images",
    ]
    assert all(isinstance(value, (float, int)) for value in metrics.values())
    assert metrics["passes_at_inference"] == 2
    assert metrics["task_parameters"] == 5 * 2 * 16
    of_a_task = 4 * (160 + 16 + 2 * 17) + 8 + 2 * 16  # LayerNorms, key and its task's number, rows and their owners
    assert metrics["bytes_per_task"] == pytest.approx(of_a_task + 4 * 16 / 3)  # and one centre of all classes
    evaluation = artifacts.load_json(artifacts.EVALUATION)
    assert metrics["average_accuracy"] == pytest.approx(sum(evaluation["matrices"]["c_ln"][-1]) / 3, abs=1e-6)
    assert [len(row) for row in evaluation["matrices"]["c_ln"]] == [1, 2, 3]
    images = evaluation["test_images"]
    assert images == metrics["test_images"] == 3 * 2 * TEST_PER_CLASS
    assert metrics["training_images"] == 3 * 2 * TRAIN_PER_CLASS
    assert metrics["passes_per_image"] == pytest.approx(1 + sum(evaluation["tuned_passes"]) / images, abs=1e-6)
    assert 2 <= metrics["passes_per_image"] <= 1 + (3 + 1) / 2
    assert sum(map(sum, evaluation["selection"])) == images


@pytest.mark.usefixtures("tiny_finished")
def test_first_step_is_the_same_for_the_selector_and_the_oracle() -> None:
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    assert matrices["c_ln"][0] == matrices["oracle"][0]


def test_two_runs_give_identical_bytes(tiny_repository: Path) -> None:
    run_all(3)
    first = digests("data", "artifacts", "reports")
    for folder in ("artifacts", "reports", "data/train"):
        shutil.rmtree(tiny_repository / folder)
    run_all(3)
    assert digests("data", "artifacts", "reports") == first
    assert len(first) > 30


@pytest.mark.usefixtures("tiny_finished")
def test_one_more_task_leaves_every_earlier_file_as_it_was() -> None:
    before = digests("data", "artifacts/banks", "artifacts/features", "artifacts/heads", "artifacts/queries")
    assert CliRunner().invoke(app, ["plan", "4"]).exit_code == 0
    prepare()
    for name in ("stage_one", "features", "stage_two"):
        run_stage(name, "t4")
    run_stage("evaluate")
    after = digests("data", "artifacts")
    assert {path: after[path] for path in before} == before
    for file in (artifacts.bank_file, artifacts.heads_file):
        old, new = load_file(file("t3")), load_file(file("t4"))
        grown = (".centre", ".scatter")  # a mean and a sum over all classes
        rows_of = {name: rows for name, rows in old.items() if not name.endswith(grown)}
        assert all(torch.equal(new[name][: len(rows)], rows) for name, rows in rows_of.items())
        assert all(len(new[name]) > len(rows) for name, rows in rows_of.items())
    assert len(artifacts.load_json(artifacts.EVALUATION)["matrices"]["c_ln"]) == 4


@pytest.mark.usefixtures("tiny_finished")
def test_a_task_is_trained_on_its_own_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsal-free: with every other task's training images gone, t2 comes out the same."""
    before = digests("artifacts/banks", "artifacts/features", "artifacts/heads")
    read: list[Path] = []
    load = artifacts.load_tensors

    def load_and_note(path: Path) -> dict[str, torch.Tensor]:
        read.append(path)
        return load(path)

    monkeypatch.setattr(artifacts, "load_tensors", load_and_note)
    for other in ("t1", "t3", "t4"):
        artifacts.train_file(other).unlink()
        artifacts.train_queries_file(other).unlink(missing_ok=True)
    for name in ("stage_one", "features", "stage_two"):
        run_stage(name, "t2")
    assert digests("artifacts/banks", "artifacts/features", "artifacts/heads") == before
    features_of_old_tasks = load(artifacts.features_file("t2"))["train_features"]
    assert features_of_old_tasks.shape[:2] == (1, 2 * TRAIN_PER_CLASS)  # t2's own, nothing carried from t1
    assert artifacts.train_file("t2") in read


@pytest.mark.usefixtures("tiny_finished")
def test_stage_two_and_evaluation_need_no_backbone() -> None:
    artifacts.save_weights(artifacts.BACKBONE, {}, {})  # nothing is left of it
    set_params(Path("params.yaml"), classifier_lr=0.5)
    for task in ("t1", "t2", "t3"):
        run_stage("stage_two", task)
    run_stage("evaluate")
    run_stage("report")


@pytest.mark.usefixtures("tiny_repository")
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
    counts = artifacts.load_json(artifacts.IMAGE_COUNTS)
    assert sum(count["validation"] for count in counts.values()) == len(held_out)
    assert sum(count["training"] for count in counts.values()) == len(kept)
    assert CLASSES <= len(held_out) < 2 * CLASSES * TRAIN_PER_CLASS // 5


@pytest.mark.usefixtures("tiny_repository")
def test_one_more_image_leaves_every_other_on_its_side_also_where_images_are_no_longer_arrays() -> None:
    """And so does another class, with another order of tasks."""
    set_params(Path("params.yaml"), evaluate_on="validation")
    run_stage("split")
    before = {image.numpy().tobytes() for image in load_file(artifacts.TEST)["images"]}
    raw, info = load_file(artifacts.RAW_TRAIN), artifacts.load_json(artifacts.RAW_CLASSES)
    new = random_images(2, seed=77)
    images = torch.cat([new[:1], raw["images"], new[1:]])
    labels = torch.cat([raw["labels"][:1], raw["labels"], torch.tensor([CLASSES])])
    fields = {"labels": labels, "contents": torch.cat([content_numbers(new[:1]), raw["contents"], torch.tensor([7])])}
    artifacts.save_images(artifacts.RAW_TRAIN, stored(images, arrays=False), fields)
    artifacts.save_json(artifacts.RAW_CLASSES, {"classes": [*info["classes"], "x"], "groups": [*info["groups"], "odd"]})
    set_params(Path("params.yaml"), task_classes=[[name] for name in info["classes"]])
    run_stage("split")
    after = {image.numpy().tobytes() for image in Images.from_tensors(load_file(artifacts.TEST)).pixels(16)}
    assert after - {new[0].numpy().tobytes()} == before


@pytest.mark.usefixtures("tiny_repository")
def test_the_seed_orders_named_tasks_only_if_it_is_told_to() -> None:
    tasks = [["class 5"], ["class 0", "class 7", "class 2"], ["class 1", "class 3"]]
    orders: dict[str, list[list[list[str]]]] = {"given": [], "random": []}
    for order, found in orders.items():
        for seed in range(6):
            set_params(Path("params.yaml"), task_classes=tasks, task_order=order, seed=seed)
            run_stage("split")
            found.append(list(artifacts.load_json(artifacts.TASKS).values()))
            counts = artifacts.load_json(artifacts.IMAGE_COUNTS)
            assert [count["test"] for count in counts.values()] == [TEST_PER_CLASS * len(task) for task in found[-1]]
    assert orders["given"] == [tasks] * 6
    assert all(sorted(found) == sorted(tasks) for found in orders["random"])
    assert len({str(found) for found in orders["random"]}) > 2


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": 99}, "num_tasks is 99, but tasks ends at t3"),
        (
            {"classes_per_task": 4},
            r"has classes for only 2 \(8 classes, classes_per_task: 4\): set classes_per_task to 2,",
        ),
        ({"tasks": {1: {"prev": "t0"}}}, r"tasks\.1: input should be a valid string"),
        ({"tasks": {"t1": {"prev": "t0"}, "t2": {"prev": "t2"}}}, "not a chain"),
        ({"task_classes": [["class 0"], ["clas 1"]]}, "no class 'clas 1': did you mean 'class 1'"),
        ({"task_classes": [["class 0", "class 0"]]}, "class 'class 0' is listed twice in one task"),
        ({"task_classes": [["class 0"], []]}, r"task_classes\.1: list should have at least 1 item"),
        ({"task_classes": [["class 0"]]}, "task_classes names the classes of only 1: name those of 2 more there"),
        ({"task_order": "sorted"}, "task_order: input should be 'given' or 'random'"),
        ({"evaluate_on": "train"}, "evaluate_on: input should be 'test' or 'validation'"),
    ],
)
def test_split_refuses_a_chain_that_disagrees(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), **changes)
    with pytest.raises(UserError, match=message):
        run_stage("split")
    assert not artifacts.TASKS.exists()


@pytest.mark.usefixtures("tiny_repository")
def test_tasks_of_unequal_size_given_by_name_run_through() -> None:
    """Also a class more for a later task leaves what earlier tasks learned as it was."""
    tasks = [["class 5"], ["class 0", "class 7", "class 2"], ["class 1", "class 3"]]
    set_params(Path("params.yaml"), task_classes=tasks)
    run_all(3)
    assert list(artifacts.load_json(artifacts.TASKS).values()) == tasks
    assert load_file(artifacts.heads_file("t3"))["tuned.head.ends"].tolist() == [
        1,
        1 + 4,
        5 + 6,
    ]
    assert artifacts.load_json(artifacts.EVALUATION)["test_images"] == 6 * TEST_PER_CLASS
    before = digests("data/train", "artifacts/banks")
    set_params(Path("params.yaml"), task_classes=[*tasks[:2], [*tasks[2], "class 4"]])
    prepare()
    for task in ("t1", "t2", "t3"):
        run_stage("stage_one", task)
    changed = {path for path, digest in digests("data/train", "artifacts/banks").items() if before[path] != digest}
    assert changed == {"data/train/t3.safetensors", "artifacts/banks/t3.safetensors"}


@pytest.mark.usefixtures("tiny_finished")
def test_a_missing_artifact_is_named() -> None:
    artifacts.features_file("t3").unlink()
    with pytest.raises(UserError, match=r"features/t3.safetensors is missing: `dvc repro` makes it"):
        run_stage("evaluate")


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(("split", "kind"), [(artifacts.RAW_TRAIN, "training"), (artifacts.RAW_TEST, "test")])
def test_a_class_without_images_is_named(split: Path, kind: str) -> None:
    images = load_file(split)
    kept = images["labels"] != CLASSES - 1
    artifacts.save_images(split, iter(images["images"][kept]), {"labels": images["labels"][kept]})
    with pytest.raises(UserError, match=f"class 'class {CLASSES - 1}' has no {kind} image"):
        run_stage("split")


@pytest.mark.usefixtures("tiny_repository")
def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage("split")
    for device in ("gpu", "cuda:99"):
        monkeypatch.setenv("DEVICE", device)
        with pytest.raises(UserError, match=f"DEVICE='{device}' cannot be used"):
            run_stage("queries", "t1")


@pytest.mark.usefixtures("tiny_repository")
def test_classes_in_params_yaml_may_be_written_decomposed() -> None:
    facts = artifacts.load_json(artifacts.RAW_CLASSES)
    composed, ohm = unicodedata.normalize("NFC", "épée"), "\N{OHM SIGN}"  # which composes to another character
    artifacts.save_json(artifacts.RAW_CLASSES, facts | {"classes": [composed, ohm, *facts["classes"][2:]]})
    wanted = [[unicodedata.normalize("NFD", "épée")], [ohm], ["class 2"]]
    set_params(Path("params.yaml"), task_classes=wanted)
    run_stage("split")
    assert list(artifacts.load_json(artifacts.TASKS).values()) == [[composed], [ohm], ["class 2"]]
