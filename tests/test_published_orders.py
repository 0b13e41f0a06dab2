"""Orders of classes and splits as they are published: by seed, by name, from a list; bases and increments."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import CLASSES
from pipeline.data.class_orders import ordered, pycil_order
from pipeline.data.image_set import ImageSet
from pipeline.data.sets.domain_folder import domain_set
from pipeline.data.split_lists import resplit
from pipeline.errors import UserError
from pipeline.store import artifacts
from pipeline.tasks import check_classes, cut

NAMES = [f"class {c}" for c in range(CLASSES)]


def test_the_order_of_the_pycil_line_is_the_published_one() -> None:
    """CIFAR-100, seed 1993, as the logs of public repositories print it."""
    order = pycil_order(100, 1993)
    assert order[:10] == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
    assert sorted(order) == list(range(100))


def test_a_base_and_increments() -> None:
    assert [len(task) for task in cut(range(100), 5, 50)] == [50] + 10 * [5]
    assert cut(range(5), 2, 2) == cut(range(5), 2) == [[0, 1], [2, 3], [4]]
    check_classes(11, classes=100, classes_per_task=5, first=50)
    message = "classes for only 11 .100 classes, first_task_classes: 50, classes_per_task: 5.: .* plan 11`"
    with pytest.raises(UserError, match=message):
        check_classes(12, classes=100, classes_per_task=5, first=50)


def put(folder: str, name: str, text: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, name).write_text(text)


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "tasks"),
    [
        ({"class_order": "natural"}, [NAMES[:2], NAMES[2:4], NAMES[4:6], NAMES[6:]]),
        ({"class_order": "pycil_1993", "first_task_classes": 4}, None),
        ({"class_order": "mine.txt"}, [[NAMES[7], NAMES[0]], [NAMES[1], NAMES[2]], NAMES[3:5], NAMES[5:7]]),
    ],
)
def test_tasks_are_cut_from_the_order(changes: dict[str, object], tasks: list[list[str]] | None) -> None:
    put("lists/orders", "mine.txt", "class 7\n0\n\n class 1\n" + "".join(f"{name}\n" for name in NAMES[2:7]))
    found = []
    for seed in (0, 1):
        set_params(Path("params.yaml"), seed=seed, **changes)
        run_stage("split")
        found.append(list(artifacts.load_json(artifacts.TASKS).values()))
    order = [NAMES[c] for c in pycil_order(CLASSES, 1993)]
    assert found == 2 * [tasks or [order[:4], order[4:6], order[6:]]]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.txt", "class 0\nclass 9\n", r"lists/orders/mine\.txt: the data set has no class 'class 9'"),
        ("mine.txt", "0\n8\n", "the data set has no class '8'"),
        ("mine.txt", "0\nclass 0\n", "class 'class 0' comes twice"),
        ("mine.txt", "0\n", "class 'class 1' is missing: an order names all 8 classes"),
        (
            "yours.txt",
            "",
            "class_order 'yours.txt' is unknown: choose one of random, natural, pycil_1993, mine.txt, or",
        ),
        ("../params.yaml", "", "class_order '../params.yaml' is unknown"),
    ],
)
def test_a_wrong_order_is_one_line(name: str, text: str, message: str) -> None:
    put("lists/orders", "mine.txt", text)
    set_params(Path("params.yaml"), class_order=name)
    with pytest.raises(UserError, match=message):
        run_stage("split")


def image_set() -> ImageSet:
    files = [Path(f"unpacked/imagenet-r/n0{c}/art_{i}.jpg") for c in (1, 2) for i in range(3)]
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    train = torch.tensor([0, 1, 3, 4])
    rest = [files[2], files[5]]
    return ImageSet(["a", "b"], ["", ""], [files[i] for i in train], labels[train], rest, torch.tensor([0, 1]))


def test_a_published_split_replaces_that_of_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(
        "lists/splits",
        "r.txt",
        "n01/art_0.jpg test\ndata/n01/art_2.jpg\ttrain\nn02/art_1.jpg, Train\nn02/art_2.jpg test\n",
    )
    new = resplit(image_set(), "r.txt", domains=False)
    assert [path.name for path in new.train_images] == ["art_1.jpg", "art_2.jpg"]
    assert new.train_labels.tolist() == [1, 0]
    assert [str(path) for path in new.test_images] == [
        f"unpacked/imagenet-r/{f}" for f in ("n01/art_0.jpg", "n02/art_2.jpg")
    ]
    assert new.test_labels.tolist() == [0, 1]
    assert new.notes == ["lists/splits/r.txt: left out 2 images that it does not name"]
    same = image_set()
    assert resplit(same, "own", domains=False) is same


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_split_of_a_data_set_of_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool) -> None:
    monkeypatch.chdir(tmp_path)
    files = {name: [Path(f"s{name}/o{c}/{name}_{c}.png") for c in (1, 2)] for name in ("1", "2", "3")}
    of = {name: {f"o{c}": [file] for c, file in zip((1, 2), listed, strict=True)} for name, listed in files.items()}
    train = {name: of[name] for name in ("1", "2")}
    images = domain_set(train, shared_test=[of["3"]]) if is_shared else domain_set(train, {"1": of["3"], "2": {}})
    put(
        "lists/splits",
        "r.txt",
        "o1/1_1.png test\no2/1_2.png test\no1/2_1.png train\no2/2_2.png train\no1/3_1.png train",
    )
    new = resplit(images, "r.txt", domains=False)
    assert [file.name for file in new.train_images] == ["2_1.png", "2_2.png", "3_1.png"]
    assert new.train_labels.tolist() == [0, 1, 0]
    assert [file.name for file in new.test_images] == ["1_1.png", "1_2.png"]
    if is_shared:
        assert (list(new.domains), new.train_domains, new.test_domains) == ([], None, None)
        with pytest.raises(
            UserError, match=r"^params\.yaml: split: the test images .* are of no domain, .*: set split: own"
        ):
            resplit(images, "r.txt", domains=True)
        assert resplit(images, "own", domains=True) is images
    else:
        again = resplit(images, "r.txt", domains=True)
        assert again.train_domains is not None
        assert again.test_domains is not None
        assert list(again.domains) == ["1", "2"]
        assert (again.train_domains.tolist(), again.test_domains.tolist()) == ([1, 1, 0], [0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01/art_0.jpg\n", r"lists/splits/r\.txt: 'n01/art_0.jpg' is not a file and train or test"),
        ("n01/art_0.jpg val\n", "is not a file and train or test"),
        ("n01/art_0.jpg test\nn01/art_0.jpg train\n", "n01/art_0.jpg comes twice"),
        (
            "n01/art_0.jpg test\nn01/art_9.jpg train\n",
            r"the data set has no image n01/art_9.jpg \(1 of 2 are unknown\)",
        ),
    ],
)
def test_a_wrong_split_is_one_line(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put("lists/splits", "r.txt", text)
    with pytest.raises(UserError, match=message):
        resplit(image_set(), "r.txt", domains=False)
    with pytest.raises(UserError, match=r"split 'other' is unknown: choose one of own, r.txt, or put a file"):
        resplit(image_set(), "other", domains=False)


def test_a_split_tells_domains_with_the_same_names_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    of = {name: {"clock": [Path(f"all/{name}/clock/{i}.jpg") for i in (1, 2)]} for name in ("clipart", "sketch")}
    images = domain_set(of, {"clipart": {}, "sketch": {}})
    wanted = "clipart/clock/1.jpg test\nclipart/clock/2.jpg train\nx/sketch/clock/1.jpg train\nsketch/clock/2.jpg test"
    put("lists/splits", "r.txt", wanted)
    new = resplit(images, "r.txt", domains=True)
    assert [str(file) for file in new.train_images] == ["all/clipart/clock/2.jpg", "all/sketch/clock/1.jpg"]
    assert [str(file) for file in new.test_images] == ["all/clipart/clock/1.jpg", "all/sketch/clock/2.jpg"]
    put("lists/splits", "r.txt", "clock/1.jpg test")
    with pytest.raises(UserError, match=r"no image clock/1\.jpg \(1 of 1 are unknown\); it has clipart/clock/1\.jpg$"):
        resplit(images, "r.txt", domains=True)
    with pytest.raises(UserError, match=r"uses all/clipart/clock/1\.jpg twice: set split: own"):
        resplit(domain_set(of, of), "r.txt", domains=True)


def test_a_split_of_files_needs_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put("lists/splits", "r.txt", "a/b.jpg train\n")
    pixels, labels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(UserError, match="names files, and this data set has none: set split: own"):
        resplit(ImageSet(["a", "b"], ["", ""], pixels, labels, pixels, labels), "r.txt", domains=False)


@pytest.mark.usefixtures("tiny_finished")
def test_accuracy_over_images_stands_beside_that_over_tasks() -> None:
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    test = load_file(artifacts.TEST)
    assert metrics["accuracy_over_images"] == pytest.approx(metrics["average_accuracy"])  # tasks of equal size here
    assert metrics["incremental_accuracy_over_images"] == pytest.approx(metrics["average_incremental_accuracy"])
    assert len(test["labels"].unique()) == CLASSES
    assert "If every image has the same weight instead, C-LN's is" in " ".join(artifacts.REPORT.read_text().split())
    assert ordered("random", NAMES, [""] * CLASSES, 1) != ordered("random", NAMES, [""] * CLASSES, 2)
