"""Settings: class-, domain- and task-incremental learning."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from harness.dvc_repository import Repository, ran
from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import refusal, run_all
from pipeline.__main__ import app
from pipeline.data.datasets import WITH_DOMAINS
from pipeline.data.images import Images
from pipeline.data.packing import content_numbers
from pipeline.inference.manifest import read_manifest
from pipeline.store import artifacts
from stages import predict

DOMAINS, CLASSES = 3, 2


def write_domains(*, unseen: bool = False) -> None:
    """Raw data of three domains with two classes, as download writes them for setting: domain.

    unseen: the test images are of a fourth domain, which no task trains.
    """
    for file, count, seed in ((artifacts.RAW_TRAIN, 10, 1), (artifacts.RAW_TEST, 5, 2)):
        generator = torch.Generator().manual_seed(seed)
        cells = [(domain, c) for domain in range(DOMAINS) for c in range(CLASSES) for _ in range(count)]
        domains, labels = torch.tensor(cells).T
        is_other = unseen and file == artifacts.RAW_TEST
        grounds = [[120, 120, 0]] * 3 if is_other else [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
        ground = torch.tensor(grounds)[domains]
        pixels = ground[:, None, None] + torch.randint(55, (len(cells), 16, 16, 3), generator=generator)
        pixels[labels == 1, :8] = 255 - pixels[labels == 1, :8]
        images = pixels.to(torch.uint8)
        fields = {"labels": labels, "contents": content_numbers(images), **({} if is_other else {"domains": domains})}
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
        {"selection": "first", "tuned_tasks": "first"},
        {"selection": "first_and_frozen", "tuned_tasks": "first", "classifier": "slca"},
        {"selection": "first", "tuned_tasks": "first", "training": "single_stage"},
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
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"selector": "lda", "classifier": "lda"},
        {"selection": "average", "classifier": "carried_gaussians"},
        {"tuning": "layerwise"},
        {"tuning": "synqt"},
        {"tuning": "none"},
    ],
)
def test_test_images_of_other_domains_count_after_every_step(changes: dict[str, object]) -> None:
    write_domains(unseen=True)
    set_params(Path("params.yaml"), setting="domain", epochs=8, classifier_epochs=30, **changes)
    run_all(DOMAINS)
    assert load_file(artifacts.TEST)["tasks"].tolist() == 30 * [-1]
    assert all(len(rows) == DOMAINS and {len(row) for row in rows} == {1} for rows in matrices().values())
    assert {"forgetting", "forgetting_clipped", "selection_accuracy", "oracle_accuracy"}.isdisjoint(metrics())
    (accuracy,) = matrices()["c_ln"][-1]
    assert metrics()["average_accuracy"] == metrics()["accuracy_over_images"] == pytest.approx(accuracy)
    assert metrics()["test_images"] == 30
    assert "The test images are of other domains, which no task trains: all of them count after every step." in report()
    assert "| domain | accuracy on all test images after it (%) |" in report()
    assert "accuracy_matrix.png" not in report()
    assert not Path("reports/figures/accuracy_matrix.png").exists()
    steps = artifacts.ACCURACY_MATRIX.read_text().splitlines()
    assert [line.split(",")[:2] for line in steps[1:]] == [["1", "all"], ["2", "all"], ["3", "all"]]
    assert [sorted(count) for count in artifacts.load_json(artifacts.IMAGE_COUNTS).values()] == DOMAINS * [["training"]]
    test = load_file(artifacts.TEST)
    logits = predict.load_learner(read_manifest().settings).predict(Images.from_tensors(test)).logits
    assert float((logits.argmax(1) == test["labels"]).double().mean()) == pytest.approx(accuracy, abs=1e-5)


@pytest.mark.usefixtures("tiny_repository")
def test_a_task_that_is_to_be_given_needs_test_images_of_tasks() -> None:
    write_domains(unseen=True)
    set_params(Path("params.yaml"), setting="domain", selection="oracle")
    message = refusal(lambda: run_all(DOMAINS))
    assert message.startswith(
        "params.yaml: selection: oracle needs the task of each test image, and those of this data"
    )
    set_params(Path("params.yaml"), evaluate_on="validation")
    run_all(DOMAINS)
    assert [len(row) for row in matrices()["c_ln"]] == [1, 2, 3], "held-out training images are of their domains"


@pytest.mark.usefixtures("tiny_repository")
def test_a_key_knows_a_domain() -> None:
    """A key is one direction for both classes of a domain, and one class of blue lies nearer to red's: 5 of 30 images.

    The discriminant has a mean for each class of each domain, and makes no mistake on the same queries.
    """
    write_domains()
    set_params(Path("params.yaml"), setting="domain", selector="lda")
    run_all(DOMAINS)
    assert metrics()["selection_accuracy"] == 1
    set_params(Path("params.yaml"), selector="key")
    run_all(DOMAINS)
    assert metrics()["selection_accuracy"] == pytest.approx(25 / 30, abs=1e-6)
    chosen = torch.tensor(artifacts.load_json(artifacts.EVALUATION)["selection"])
    assert chosen.diag().tolist() == [10, 10, 5]
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
    [
        {},
        {"classifier": "lda"},
        {"selection": "average"},
        {"selection": "oracle"},
        {"selection": "latest", "order": "joint"},
        {"tuning": "layerwise"},
        {"tuning": "layerwise", "features": "cls_2"},
        {"selector": "entropy", "features": "last_2"},
    ],
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
        (
            {"setting": "domain", "selection": "average", "classifier": "class_gaussians"},
            "but setting: domain brings all in every task: set classifier: carried_gaussians",
        ),
        (
            {"selection": "average", "classifier": "class_gaussians", "task_classes": [["a"], ["b", "a"]]},
            "but task_classes repeats 'a': set classifier: carried_gaussians with anchor: false",
        ),
        (
            {
                "setting": "domain",
                "selection": "average",
                "classifier": "carried_gaussians",
                "carried_gaussians.anchor": True,
            },
            "but setting: domain brings all in every task: set classifier: carried_gaussians with anchor: false",
        ),
        (
            {
                "tuning": "adapter",
                "selection": "all",
                "classifier": "ease",
                "tuning_init": "pretrained",
                "task_classes": [["a"], ["a"]],
            },
            "but task_classes repeats 'a': set classifier: carried_gaussians with anchor: false, or ncm",
        ),
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


@pytest.mark.slow
def test_switching_to_a_given_task_reruns_no_pass(repository: Repository) -> None:
    output = repository.dvc("exp", "run", "--temp", "-S", "setting=task")
    assert ran(output) == ["method", "evaluate", "report"]
    output = repository.dvc("exp", "run", "-S", "setting=domain")
    assert "domain-incremental" in repository.read("reports/report.md")
    assert "download" in ran(output)
