"""The real `dvc` with a tracked `data_dir`: pushed, pulled elsewhere, edited, and set back to an older commit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.dvc_repository import Repository, ran
from harness.parameters import set_params


def draw(folder: Path, name: str, seed: int) -> None:
    """A picture of coloured noise in each of four classes."""
    random = np.random.default_rng(seed)
    for number in range(4):
        path = folder / f"class{number}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def pictured(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with pictures under DVC. It has run, is committed as v1 and pushed."""
    folder = tmp_path_factory.mktemp("pictured")
    shutil.copytree(finished.path, folder / "original")
    repository = Repository(folder / "original", finished.env)
    for number in range(5):
        draw(repository.path / "images/mine", f"{number}.png", number)
    changes = {"dataset": "image_folder", "data_dir": "images/mine", "classes_per_task": 2}
    set_params(repository.path / "params.yaml", **changes)
    repository.dvc("add", "images/mine")
    repository.dvc("remote", "add", "-d", "store", str(folder / "remote"))
    repository.dvc("repro")
    repository.commit("v1")
    repository.run("git", "tag", "v1")
    assert repository.run("git", "ls-files", "images").split() == ["images/README.md", "images/mine.dvc"]
    repository.dvc("push")
    return repository


@pytest.fixture
def with_pictures(pictured: Repository, tmp_path: Path) -> Repository:
    """A copy of it."""
    shutil.copytree(pictured.path, tmp_path / "here")
    return Repository(tmp_path / "here", pictured.env)


def state(repository: Repository) -> dict[str, bytes]:
    """Pictures, artifacts and reports."""
    return repository.digests("images/**/*", "data/**/*", "artifacts/**/*", "reports/**/*")


def test_pictures_travel_with_the_result_and_go_back_with_it(with_pictures: Repository, tmp_path: Path) -> None:
    v1 = state(with_pictures)
    elsewhere = with_pictures.clone(tmp_path / "elsewhere")
    elsewhere.dvc("pull")
    assert not ran(elsewhere.dvc("repro"))
    assert state(elsewhere) == v1

    draw(elsewhere.path / "images/mine", "new.png", 9)
    assert ran(elsewhere.dvc("repro", "split")) == ["download", "split"]
    assert "M images/mine.dvc" in elsewhere.run("git", "status", "--short")
    elsewhere.commit("v2")
    elsewhere.dvc("push")

    third = elsewhere.clone(tmp_path / "third")
    third.dvc("pull", "images/mine.dvc", "download", "split")
    assert third.digests("images/**/*", "data/**/*") == elsewhere.digests("images/**/*", "data/**/*")

    elsewhere.run("git", "checkout", "-q", "v1")
    elsewhere.dvc("checkout")
    assert state(elsewhere) == v1
    assert not ran(elsewhere.dvc("repro"))
    assert not elsewhere.run("git", "status", "--short")


def test_without_the_pictures_predict_works_and_repro_names_them(with_pictures: Repository, tmp_path: Path) -> None:
    elsewhere = with_pictures.clone(tmp_path / "elsewhere")
    elsewhere.dvc("pull", "dvc.yaml")
    assert not (elsewhere.path / "images/mine").exists()
    image = str(with_pictures.path / "images/mine/class0/0.png")
    assert "class" in elsewhere.run("python", "-m", "stages.predict", image)
    output = elsewhere.dvc("repro", fails=True)
    assert "ERROR: failed to reproduce 'images/mine.dvc': missing data 'source': images/mine" in output
    assert not ran(output)
    assert "class" in elsewhere.run("python", "-m", "stages.predict", image)
    changed = elsewhere.dvc("exp", "run", "--allow-missing", "-S", "classifier_lr=0.01", "stage_two@t2")
    assert ran(changed) == ["stage_two@t1", "stage_two@t2"]


def test_an_experiment_in_a_copy_of_the_repository_sees_them(with_pictures: Repository) -> None:
    output = with_pictures.dvc("exp", "run", "--temp", "-S", "seed=3", "split")
    assert ran(output) == ["split"]
    output = with_pictures.dvc("exp", "run", "--temp", "-f", "download")
    assert "download" in ran(output)
    assert "image_folder: 4 classes, 16 training and 4 test images" in output


def test_imported_pictures_are_pushed_and_pulled_alike(repository: Repository, tmp_path: Path) -> None:
    draw(tmp_path / "photos", "1.png", 1)
    draw(tmp_path / "photos", "2.png", 2)
    repository.dvc("import-url", str(tmp_path / "photos"), "images/mine")
    set_params(repository.path / "params.yaml", dataset="image_folder", data_dir="images/mine")
    repository.dvc("remote", "add", "-d", "store", str(tmp_path / "remote"))
    assert "download" in ran(repository.dvc("repro", "download"))
    repository.commit("imported")
    repository.dvc("push")
    shutil.rmtree(tmp_path / "photos")
    elsewhere = repository.clone(tmp_path / "elsewhere")
    elsewhere.dvc("pull", "images/mine.dvc", "download", "method", "code")
    assert not ran(elsewhere.dvc("repro", "download"))
    assert elsewhere.digests("images/mine/**/*") == repository.digests("images/mine/**/*")
