"""Classes that arrive, grow, are renamed and go: what trains, what keeps its bytes, which answers move."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from harness.counting import Counted
from harness.dvc_repository import Repository, make_repository, ran
from harness.parameters import set_params
from harness.plain_repro import Repro
from harness.stage_order import run_stage
from harness.stage_repository import digests
from harness.tiny import random_images
from pipeline.__main__ import app
from pipeline.data.images import Images
from pipeline.data.packing import content_numbers
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.learner import Prediction
from pipeline.inference.manifest import read_manifest
from pipeline.store import artifacts
from stages import predict

PARAMS = Path("params.yaml")
WEEK_1 = [["ant", "bee"], ["cat", "dog"], ["elk", "fox"]]
WEEK_2 = [*WEEK_1, ["gnu", "hen"]]
OF_A_TASK = ("queries", "keys", "stage_one", "features", "stage_two")
AT_THE_END = ["rematch", "evaluate", "report"]
TRAIN, TEST = 10, 5  # pictures of a class


def write_pictures(names: Sequence[str], more: Mapping[str, int] | None = None) -> None:
    """The data set as `download` writes it: classes by name, each of noise around the colour of its first letter.

    more: training pictures that a class has besides.
    """
    for file, count, seed in ((artifacts.RAW_TRAIN, TRAIN, 100), (artifacts.RAW_TEST, TEST, 200)):
        parts, labels = [], []
        for number, name in enumerate(sorted(names)):
            wanted = count + ((more or {}).get(name, 0) if count == TRAIN else 0)
            colour = random_images(1, seed=ord(name[0]), size=1).float()
            parts.append((0.6 * colour + 0.4 * random_images(wanted, seed + ord(name[0])).float()).to(torch.uint8))
            labels += [number] * wanted
        images = torch.cat(parts)
        fields = {"labels": torch.tensor(labels), "contents": content_numbers(images)}
        artifacts.save_images(file, iter(images), fields)
    facts = {"classes": sorted(names), "groups": [""] * len(names)}
    artifacts.save_json(artifacts.RAW_CLASSES, facts)


def flat(tasks: Sequence[Sequence[str]]) -> list[str]:
    return [name for names in tasks for name in names]


def ask_for(tasks: Sequence[Sequence[str]]) -> None:
    """As a user does: task_classes, then `python -m pipeline plan`."""
    set_params(PARAMS, task_classes=[list(names) for names in tasks])
    assert CliRunner().invoke(app, ["plan", str(len(tasks))]).exit_code == 0


def week_1(repro: Repro, **changes: object) -> None:
    write_pictures(flat(WEEK_1))
    set_params(PARAMS, epochs=2, classifier_epochs=3, **changes)
    ask_for(WEEK_1)
    assert repro(3)
    assert repro(3) == []


def files_of_tasks(*tasks: int) -> dict[str, str]:
    """Digests of all that belongs to these tasks."""
    names = tuple(f"t{task}" for task in tasks)
    return {path: value for path, value in digests("data", "artifacts").items() if Path(path).stem in names}


def answers_on_old_pictures() -> Prediction:
    test = load_file(artifacts.TEST)
    old = Images.from_tensors(test)[test["tasks"] < 3]
    return predict.load_learner(read_manifest().settings).predict(old)


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"selector": "entropy"},
        {"selection": "average", "classifier": "carried_gaussians"},
        {"tuning": "layerwise"},
        {"tuning": "synqt"},
        {"correction": "rematch"},
    ],
)
def test_only_the_new_task_trains_and_old_files_keep_their_bytes(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, images = Counted(monkeypatch), dict[str, int]()

    def run_and_count(stage: str, *task: str) -> None:
        images["@".join((stage, *task))] = counted.of(lambda: run_stage(stage, *task))

    repro = Repro(run_and_count)
    week_1(repro, **changes)
    before, rows = files_of_tasks(1, 2, 3), FeatureTable.from_tensors(load_file(artifacts.features_file("t3")))
    assert len(before) == 3 * 10

    write_pictures(flat(WEEK_2))
    ask_for(WEEK_2)
    assert repro(4) == ["method", "split", *(f"{stage}@t4" for stage in OF_A_TASK), *AT_THE_END]
    assert files_of_tasks(1, 2, 3) == before
    table = FeatureTable.from_tensors(load_file(artifacts.features_file("t4")))
    assert torch.equal(table.features[: len(rows.features)], rows.features)
    new, flops = len(table.features) - len(rows.features), 1  # a pass of one image, to count operations
    assert images["queries@t4"] == 2 * (TRAIN + TEST) + flops, "no image of another task"
    of_train = {"entropy": 4}.get(str(changes.get("selector")), 2) * 2 * TRAIN  # under each task, or under two at most
    assert images["features@t4"] <= new + of_train + flops, "no pass that the table holds already"
    old = 6 * TEST
    if changes in ({}, {"tuning": "synqt"}):
        assert new < old, "only pictures that are closest to the new key"


@pytest.mark.usefixtures("tiny_repository")
def test_old_answers_move_only_as_the_page_says() -> None:
    repro = Repro()
    week_1(repro)
    before = answers_on_old_pictures()
    write_pictures(flat(WEEK_2))
    ask_for(WEEK_2)
    repro(4)
    after = answers_on_old_pictures()
    stays = after.tasks == before.tasks
    assert bool((stays | (after.tasks == 3)).all()), "a picture changes its task only to the new one"
    torch.testing.assert_close(after.logits[stays, :6], before.logits[stays], rtol=1e-4, atol=1e-5)
    answer = after.logits.argmax(1)
    same = answer == before.logits.argmax(1)
    assert bool((same | (answer >= 6) | ~stays).all()), "and its class to a new one, or with its task"


@pytest.mark.usefixtures("tiny_repository")
def test_more_pictures_of_an_old_class_train_its_task_and_those_after_it() -> None:
    repro = Repro()
    week_1(repro)
    before, queries = files_of_tasks(1), digests("artifacts/queries")
    write_pictures(flat(WEEK_1), {"dog": 4})
    assert repro(3) == [
        "split",
        "queries@t2",
        *("keys@t2", "keys@t3", "stage_one@t2", "stage_one@t3"),
        *("features@t2", "features@t3", "stage_two@t2", "stage_two@t3"),
        *AT_THE_END,
    ]
    assert files_of_tasks(1) == before
    changed = {path for path, digest in digests("artifacts/queries").items() if digest != queries[path]}
    assert changed == {"artifacts/queries/train/t2.safetensors"}


@pytest.mark.usefixtures("tiny_repository")
def test_another_test_picture_reaches_its_task_and_those_after_it_and_trains_nothing() -> None:
    repro = Repro()
    week_1(repro)
    test = load_file(artifacts.RAW_TEST)
    test["images"][2 * TEST] = 7  # of cat
    artifacts.save_images(artifacts.RAW_TEST, iter(test["images"]), {"labels": test["labels"]})
    again = repro(3)
    assert not [name for name in again if name.startswith("stage_one")]
    assert {"queries@t2", "features@t2", "features@t3"} <= set(again)
    assert not {"queries@t1", "queries@t3", "features@t1"} & set(again)


@pytest.mark.usefixtures("tiny_repository")
def test_a_class_that_is_renamed_trains_nothing_and_every_answer_is_the_same() -> None:
    repro = Repro()
    week_1(repro)
    before, answers = files_of_tasks(1, 2, 3), answers_on_old_pictures()
    renamed = [["ant", "bee"], ["cat", "donkey"], ["elk", "fox"]]
    write_pictures(flat(renamed))
    ask_for(renamed)
    assert repro(3) == ["method", "split", "evaluate", "report"]
    assert files_of_tasks(1, 2, 3) == before
    assert read_manifest().tasks == renamed
    assert torch.equal(answers_on_old_pictures().logits, answers.logits)


@pytest.mark.usefixtures("tiny_repository")
def test_the_last_task_goes_without_training_and_an_earlier_one_takes_those_after_it_along() -> None:
    repro = Repro()
    week_1(repro)
    before = files_of_tasks(1, 2)
    ask_for(WEEK_1[:2])
    assert repro(2) == ["method", "split", *AT_THE_END]
    assert files_of_tasks(1, 2) == before
    ask_for([WEEK_1[0], WEEK_1[2]])
    assert repro(2) == ["method", "split", *(f"{stage}@t2" for stage in OF_A_TASK), *AT_THE_END]
    ask_for(WEEK_1)
    assert "stage_one@t1" not in repro(3)


@pytest.mark.usefixtures("tiny_repository")
def test_test_images_of_another_run_are_refused() -> None:
    repro = Repro()
    week_1(repro)
    test = load_file(artifacts.TEST)
    fields = {name: test[name] for name in ("labels", "tasks")}
    artifacts.save_images(artifacts.TEST, iter(255 - test["images"]), fields)
    for stage in ("queries", "features"):
        with pytest.raises(Exception, match=r"data/test.safetensors is from another run than data/test_images/t2.json"):
            run_stage(stage, "t2")


def draw(folder: Path, names: Sequence[str]) -> None:
    """Ten pictures of coloured noise of each class."""
    for name in names:
        random = np.random.default_rng(ord(name[0]))
        colour = random.integers(0, 255, 3)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            pixels = 0.6 * colour + 0.4 * random.integers(0, 255, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


def release(repository: Repository, tag: str) -> str:
    """As the page says: export, commit, tag, push. What the learner says of all pictures of week 1."""
    shutil.rmtree(repository.path / "learner", ignore_errors=True)
    repository.run("python", "-m", "pipeline", "export", "learner")
    repository.dvc("add", "learner")
    repository.commit(tag)
    repository.run("git", "tag", "-a", tag, "-m", tag)
    repository.dvc("push")
    repository.run("git", "push", "-q", "--follow-tags")
    return answers(repository, "learner")


def answers(repository: Repository, *learner: str) -> str:
    """JSON lines for pictures of week 1."""
    chosen = ["--learner", *learner] if learner else []
    pictures = [f"images/mine/{name}" for name in flat(WEEK_1)]
    return repository.run("python", "-m", "pipeline", "predict", "--format", "jsonl", *chosen, *pictures)


@pytest.mark.slow
def test_two_weeks_of_a_team_with_dvc_and_git(environment: dict[str, str], tmp_path: Path) -> None:
    """docs/adding_classes.md, command by command."""
    repository, shared = make_repository(tmp_path / "team", environment), str(tmp_path / "shared.git")
    repository.run("git", "init", "-q", "--bare", "-b", "main", shared)
    repository.run("git", "remote", "add", "origin", shared)
    repository.run("git", "push", "-q", "-u", "origin", "HEAD:main")
    params, pictures = repository.path / "params.yaml", repository.path / "images/mine"
    draw(pictures, flat(WEEK_1))
    set_params(params, dataset="image_folder", data_dir="images/mine", task_classes=WEEK_1)
    repository.run("python", "-m", "pipeline", "plan", "3")
    repository.dvc("add", "images/mine")
    repository.dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    repository.dvc("repro")
    first = release(repository, "week-1")
    files = ("artifacts/*/t[0-3].*", "artifacts/queries/*/t[1-3].*", "data/train/t[1-3].*")
    old = repository.digests(*files)

    draw(pictures, ["gnu", "hen"])
    set_params(params, task_classes=WEEK_2)
    repository.run("python", "-m", "pipeline", "plan", "4")
    of_t4 = {f"{stage}@t4" for stage in OF_A_TASK}
    assert set(ran(repository.dvc("repro"))) == {"method", "download", "split", *of_t4, *AT_THE_END}
    after = repository.digests(*files)
    assert {path: after[path] for path in old} == old
    second = release(repository, "week-2")
    difference = repository.dvc("metrics", "diff", "--md", "week-1", "week-2")
    assert "| average_accuracy" in difference
    assert "| test_images" in difference
    assert "task_classes" in repository.dvc("params", "diff", "week-1", "week-2")

    for week, expected in (("week-1", first), ("week-2", second)):
        repository.dvc("get", shared, "learner", "--rev", week, "-o", str(tmp_path / week))
        assert answers(repository, str(tmp_path / week)) == expected
        record = json.loads((tmp_path / week / "learner.json").read_text())
        assert record["tasks"] == (WEEK_1 if week == "week-1" else WEEK_2)
    repository.run("gto", "register", "learner", "week-1", "--version", "v1.0.0")
    repository.run("git", "push", "-q", "--follow-tags")
    repository.dvc("artifacts", "get", shared, "learner", "--rev", "v1.0.0", "-o", str(tmp_path / "v1"))
    assert (tmp_path / "v1/learner.json").read_bytes() == (tmp_path / "week-1/learner.json").read_bytes()

    repository.run("git", "checkout", "-q", "week-1")
    repository.dvc("checkout")
    assert ran(repository.dvc("repro")) == []
    assert answers(repository) == first
    assert repository.run("git", "status", "--porcelain") == ""
    repository.run("git", "checkout", "-q", "main")
    repository.dvc("checkout")
    assert ran(repository.dvc("repro")) == []
    assert answers(repository) == second
