"""Settings: class-, domain- and task-incremental learning; classes that come again; domains from folders."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from harness.bad_data import picture
from harness.dvc_repository import Repository, ran
from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import refusal, run_all
from pipeline.__main__ import app
from pipeline.classification.classifier import State, TaskFeatures, Training, find_classifier
from pipeline.classification.classifiers import cls
from pipeline.data.datasets import WITH_DOMAINS, fetch_dataset
from pipeline.data.images import Images
from pipeline.data.packing import content_numbers
from pipeline.data.sets.glyph_images import DOMAIN_CHARACTERS, RENDITIONS, draw_glyph_domains
from pipeline.inference.manifest import read_manifest
from pipeline.linear import gaussians, ridge
from pipeline.linear.head import Head
from pipeline.linear.steps import append_step, step_heads
from pipeline.progress import Progress
from pipeline.store import artifacts
from stages import predict

DOMAINS, CLASSES = 3, 2


def write_domains() -> None:
    """Raw data of three domains with two classes, as download writes them for setting: domain."""
    for file, count, seed in ((artifacts.RAW_TRAIN, 10, 1), (artifacts.RAW_TEST, 5, 2)):
        generator = torch.Generator().manual_seed(seed)
        cells = [(domain, c) for domain in range(DOMAINS) for c in range(CLASSES) for _ in range(count)]
        domains, labels = torch.tensor(cells).T
        ground = torch.tensor([[200, 0, 0], [0, 200, 0], [0, 0, 200]])[domains]
        pixels = ground[:, None, None] + torch.randint(55, (len(cells), 16, 16, 3), generator=generator)
        pixels[labels == 1, :8] = 255 - pixels[labels == 1, :8]
        images = pixels.to(torch.uint8)
        fields = {"labels": labels, "contents": content_numbers(images), "domains": domains}
        artifacts.save_images(file, iter(images), fields)
    facts = {"classes": ["plain", "striped"], "groups": ["", ""], "domains": ["red", "green", "blue"]}
    artifacts.save_json(artifacts.RAW_CLASSES, facts)


def metrics() -> dict[str, float]:
    found: dict[str, float] = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    return found


def matrices() -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    return found


def report() -> str:
    return " ".join(artifacts.REPORT.read_text().split())


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"selector": "lda", "classifier": "lda"},
        {"selection": "average", "classifier": "carried_gaussians"},
        {"selection": "average"},
        {"selection": "latest"},
        {"selection": "latest", "order": "joint"},
        {"tuning": "layerwise"},
        {"tuning": "none"},
        {"training": "single_stage", "evaluate_on": "validation"},
    ],
)
def test_domains_come_one_after_another_and_predict_equals_evaluate(changes: dict[str, object]) -> None:
    write_domains()
    set_params(Path("params.yaml"), setting="domain", epochs=8, classifier_epochs=30, **changes)
    run_all(DOMAINS)
    assert list(artifacts.load_json(artifacts.TASKS).values()) == DOMAINS * [["plain", "striped"]]
    assert list(artifacts.load_json(artifacts.DOMAINS).values()) == ["red", "green", "blue"]
    assert min(matrices()["c_ln"][-1]) >= 0.5
    assert ("selection_accuracy" in metrics()) == ("selection" not in changes and changes.get("tuning") != "none")
    assert "2 classes arrive in 3 domains, one per task. Setting: domain-incremental." in report()
    assert "| t2 (green) |" in report()
    manifest = read_manifest()
    assert manifest.domains == ["red", "green", "blue"]
    test = load_file(artifacts.TEST)
    logits = predict.load_learner(manifest.settings).predict(Images.from_tensors(test)).logits
    assert logits.shape == (len(test["labels"]), CLASSES)
    right = (logits.argmax(1) == test["labels"]).double()
    of_domains = [float(right[test["tasks"] == domain].mean()) for domain in range(DOMAINS)]
    assert of_domains == pytest.approx(matrices()["c_ln"][-1], abs=1e-5)


@pytest.mark.usefixtures("tiny_repository")
def test_a_key_knows_a_domain() -> None:
    write_domains()
    set_params(Path("params.yaml"), setting="domain")
    run_all(DOMAINS)
    assert metrics()["selection_accuracy"] > 0.5  # three colours; chance is a third
    rows = load_file(artifacts.heads_file("t3"))
    assert rows["tuned.head.classes"].tolist() == DOMAINS * [0, 1]
    assert rows["tuned.head.tasks"].tolist() == [0, 0, 1, 1, 2, 2]
    assert rows["tuned_lda.state.counts"].tolist() == [30, 30]  # of all domains


@pytest.mark.usefixtures("tiny_repository")
def test_the_seed_orders_domains_only_if_it_is_told_to_and_too_few_are_named() -> None:
    write_domains()
    orders: dict[str, set[str]] = {"given": set(), "random": set()}
    for order, found in orders.items():
        for seed in range(6):
            set_params(Path("params.yaml"), setting="domain", task_order=order, seed=seed)
            run_stage("split")
            found.add(" ".join(artifacts.load_json(artifacts.DOMAINS).values()))
    assert orders["given"] == {"red green blue"}
    assert len(orders["random"]) > 1
    assert CliRunner().invoke(app, ["plan", "4"]).exit_code == 0
    message = refusal(lambda: run_stage("split"))
    assert message == (
        "params.yaml: tasks has 4 tasks, but the data set has only 3 domains: run `python -m pipeline plan 3`"
    )


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    "changes",
    [{}, {"classifier": "lda"}, {"selection": "average"}, {"selection": "oracle"}, {"tuning": "layerwise"}],
)
def test_a_given_task_leaves_its_own_classes_and_predict_equals_evaluate(changes: dict[str, object]) -> None:
    set_params(Path("params.yaml"), **changes)
    run_all(3)
    before, were = matrices(), metrics()
    set_params(Path("params.yaml"), setting="task")
    for stage in ("method", "evaluate", "report"):
        run_stage(stage)
    now = matrices()
    assert all(new >= old for new, old in zip(now["frozen_lda"][-1], before["frozen_lda"][-1], strict=True))
    assert {"oracle_accuracy", "selection_accuracy"}.isdisjoint(metrics())
    assert "forgetting" in metrics()
    assert artifacts.load_json(artifacts.EVALUATION)["key_similarity"] is None
    if "selection" not in changes:
        assert metrics()["passes_at_inference"] == 1
        assert metrics()["bytes_per_task"] <= were["bytes_per_task"]
    assert "Setting: task-incremental. The task of a test image is given" in report()
    assert "At test time the task of an image is given." in report()
    learner, test = predict.load_learner(read_manifest().settings), load_file(artifacts.TEST)
    for task in range(3):
        mine = test["tasks"] == task
        logits = learner.predict(Images.from_tensors(test)[mine], task).logits
        assert logits.isfinite().sum(1).tolist() == [2] * int(mine.sum())
        right = float((logits.argmax(1) == test["labels"][mine]).double().mean())
        assert right == pytest.approx(now["c_ln"][-1][task], abs=1e-5)


@pytest.mark.usefixtures("tiny_finished")
def test_predict_asks_for_the_task_only_where_it_is_given() -> None:
    images = Images.from_tensors(load_file(artifacts.TEST))[:2]
    learner = predict.load_learner(read_manifest().settings)
    assert "gives no task: leave out --task" in refusal(lambda: learner.predict(images, 0))
    set_params(Path("params.yaml"), setting="task")
    run_stage("evaluate")
    learner = predict.load_learner(read_manifest().settings)
    assert "say which task the images are of, as in `--task t2`" in refusal(lambda: learner.predict(images))
    assert "this learner has 3 tasks: t9 is not one of them" in refusal(lambda: learner.predict(images, 8))


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"setting": "domain", "task_classes": [["a"]]},
            "every task is a domain and all its classes: set task_classes: []",
        ),
        ({"setting": "domain", "first_task_classes": 4}, "set first_task_classes: 0"),
        ({"setting": "domain", "correction": "arc"}, "setting: domain has no such choice: set correction: none"),
        ({"setting": "task", "correction": "rematch"}, "setting: task has no such choice: set correction: none"),
        ({"correction": "arc", "task_classes": [["a"], ["b", "a"]]}, "names 'a' in several: set correction: none"),
        ({"setting": "domains"}, "setting: input should be 'class', 'domain' or 'task'"),
    ],
)
def test_contradictions_are_one_line(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), **changes)
    assert message in refusal(lambda: run_stage("method"))


@pytest.mark.usefixtures("tiny_repository")
def test_a_data_set_without_domains_is_named_before_anything_is_downloaded() -> None:
    set_params(Path("params.yaml"), setting="domain", dataset="cifar100")
    run_stage("method")
    message = refusal(lambda: run_stage("download"))
    assert message.startswith("params.yaml: setting: domain needs a data set with domains, and cifar100 has none")
    assert all(name in message for name in WITH_DOMAINS)


MIXED = [["class 0", "class 1"], ["class 1", "class 2"], ["class 0", "class 3"]]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("changes", [{}, {"classifier": "ridge"}, {"classifier": "cls"}, {"setting": "task"}])
def test_classes_come_again(changes: dict[str, object]) -> None:
    set_params(Path("params.yaml"), task_classes=MIXED, **changes)
    run_all(3)
    counts = artifacts.load_json(artifacts.IMAGE_COUNTS)
    assert [count["training"] for count in counts.values()] == [10, 15, 15]
    train = [load_file(artifacts.train_file(f"t{t}")) for t in (1, 2, 3)]
    assert [file["classes"].unique().tolist() for file in train] == [[0, 1], [1, 2], [0, 3]]
    assert [file["labels"].unique().tolist() for file in train] == [[0, 1]] * 3
    heads = load_file(artifacts.heads_file("t3"))
    assert heads["frozen_lda.state.counts"].tolist() == [10, 10, 10, 10]
    queries = torch.cat([load_file(artifacts.train_queries_file(f"t{t}"))["queries"] for t in (1, 2, 3)])
    labels = torch.cat([file["classes"] for file in train])
    at_once = gaussians.add_classes(gaussians.no_gaussians(queries.shape[1]), queries, labels)
    torch.testing.assert_close(heads["frozen_lda.state.means"], at_once.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(heads["frozen_lda.state.scatter"], at_once.scatter, rtol=1e-10, atol=1e-10)
    assert "4 classes arrive in 3 tasks" in report()


PARTS = [torch.tensor(classes) for classes in ([0, 1, 2], [1, 3], [0, 2, 3, 4])]


def stream(seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Features, labels from 0 within the task, and numbers of the classes, of three tasks."""
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for classes in PARTS:
        labels = torch.cat([torch.arange(len(classes)), torch.randint(len(classes), (20,), generator=generator)])
        centres = torch.randn(5, 6, generator=generator)
        tasks.append((centres[classes[labels]] + torch.randn(len(labels), 6, generator=generator), labels, classes))
    return tasks


def merged(name: str, seed: int) -> tuple[State, State]:
    """The state of a classifier task by task, and of all images at once."""
    tasks, learn = stream(seed), find_classifier(name).learn

    def training() -> Training:
        return Training(64, 0.005, 2, None, torch.Generator().manual_seed(7), Progress("test", 0))

    state: State = {}
    for task, (features, labels, classes) in enumerate(tasks):
        given_now = TaskFeatures(features[None], features, features, labels, classes, task)
        state, head = learn(state, given_now, training())
    features = torch.cat([features for features, _, _ in tasks])
    labels = torch.cat([classes[labels] for _, labels, classes in tasks])
    at_once, other = learn({}, TaskFeatures(features[None], features, features, labels), training())
    torch.testing.assert_close(head.logits(features), other.logits(features), rtol=1e-4, atol=1e-4)
    return state, at_once


@pytest.mark.parametrize("name", ["ncm", "lda", "ridge", "ridge_projected"])
@settings(max_examples=5)
@given(seed=st.integers(0, 99))
def test_closed_forms_merge_to_what_all_images_at_once_would_give(name: str, seed: int) -> None:
    state, at_once = merged(name, seed)
    assert state.keys() == at_once.keys()
    for field, tensor in state.items():
        tolerance = 1e-10 if tensor.dtype == torch.float64 and name != "ridge_projected" else 1e-4
        torch.testing.assert_close(tensor, at_once[field], rtol=tolerance, atol=tolerance)


def test_a_class_that_comes_again_has_one_column_and_counts_in_the_closed_form_of_cls() -> None:
    state: dict[str, Tensor] = {}
    for features, labels, classes in stream(3):
        state = cls.add_task(state, features, labels, classes)
        assert state["weights"].shape[1] == 1 + max(int(c.max()) for c in PARTS if int(c.max()) <= int(classes.max()))
    sums = ridge.no_ridge(6)
    for features, labels, classes in stream(3):
        sums = ridge.add_task(sums, features, labels, classes)
    assert sums.targets.shape[1] == 5


def test_the_best_row_of_a_class_is_its_score_and_steps_keep_what_rows_are_of() -> None:
    head = Head(torch.tensor([[1.0], [2.0], [3.0], [-1.0]]), torch.zeros(4), None, torch.tensor([0, 1, 0, 1]))
    head = head._replace(tasks=torch.tensor([0, 0, 1, 1]))
    assert head.scores(torch.ones(1, 1)).tolist() == [[3, 2]]
    assert head.scores(torch.ones(1, 1), torch.tensor([[True, True, False, False]])).tolist() == [[1, 2]]
    stored = append_step(append_step({}, head.rows(0, 2)), head)
    assert stored["weight"].shape == (4, 1)
    first, second = step_heads(stored)
    assert first.classes is not None
    assert second.tasks is not None
    assert (first.classes.tolist(), second.tasks.tolist()) == ([0, 1], [0, 0, 1, 1])


def test_the_glyphs_of_the_domain_form_are_the_same_characters_in_every_rendition() -> None:
    images = draw_glyph_domains()
    assert images.classes == DOMAIN_CHARACTERS
    assert len(set(DOMAIN_CHARACTERS)) == 10
    assert images.domains == [rendition.__name__ for rendition in RENDITIONS]
    assert images.train_domains is not None
    cells = images.train_domains * 10 + images.train_labels
    assert cells.bincount().tolist() == [40] * 100
    again = draw_glyph_domains()
    assert isinstance(images.train_images, Tensor)
    assert isinstance(again.train_images, Tensor)
    assert torch.equal(images.train_images, again.train_images)


def folder(root: Path, *names: str, count: int = 4) -> None:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(picture(10 * number + index + 100 * len(name)))


Make = Callable[[Path], None]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("make", "train", "test"),
    [
        (lambda root: folder(root, "photo/cat", "photo/dog", "sketch/cat", "sketch/dog"), 12, 4),
        (
            lambda root: folder(
                root, *(f"{s}/{d}/{c}" for s in ("train", "test") for d in ("a", "b") for c in ("x", "y"))
            ),
            16,
            16,
        ),
        (lambda root: folder(root, "photo/cat", "photo/dog", "sketch/cat"), 9, 3),
    ],
)
def test_domains_from_folders(make: Make, train: int, test: int, tmp_path: Path) -> None:
    make(Path("images"))
    images = fetch_dataset("image_folder", data_dir=Path("images"), scratch=tmp_path, domains=True)
    assert len(images.domains) == 2
    assert len(images.classes) == 2
    assert (len(images.train_labels), len(images.test_labels)) == (train, test)
    assert images.train_domains is not None
    for path, label, domain in zip(images.train_images, images.train_labels, images.train_domains, strict=True):
        assert path.parts[-3:-1] == (images.domains[int(domain)], images.classes[int(label)])


@pytest.mark.usefixtures("tiny_repository")
def test_a_folder_without_domains_is_named(tmp_path: Path) -> None:
    folder(Path("images"), "cat", "dog")
    message = refusal(lambda: fetch_dataset("image_folder", data_dir=Path("images"), scratch=tmp_path, domains=True))
    assert message.startswith(f"images{os.sep}cat has no class folders: expected DOMAIN/CLASS/*")


def test_switching_to_a_given_task_reruns_no_pass(repository: Repository) -> None:
    output = repository.dvc("exp", "run", "--temp", "-S", "setting=task")
    assert ran(output) == ["method", "evaluate", "report"]
    output = repository.dvc("exp", "run", "-S", "setting=domain")
    assert "domain-incremental" in repository.read("reports/report.md")
    assert "download" in ran(output)
