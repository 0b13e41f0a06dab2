"""A ViT small enough for every test, and a repository in which the small pipeline has run."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from harness.dvc_repository import Repository, make_repository, ran, stage_environment
from harness.file_server import Server
from harness.stage_repository import make_repository as make_tiny_repository
from harness.stage_repository import run_all
from harness.tiny import TINY_CONFIG, tiny_weights
from pipeline.backbone.build import build_backbone
from pipeline.backbone.vit import Backbone
from pipeline.data import fetch as fetching
from pipeline.progress import Progress

settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two test workers on two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def backbone() -> Backbone:
    """The tiny ViT, frozen."""
    return build_backbone(
        tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=torch.device("cpu")
    )


@pytest.fixture
def progress() -> Progress:
    """Progress that shows only the lines of epochs."""
    return Progress("test", 0)


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    """Environment variables for commands in the repositories."""
    with stage_environment() as variables:
        yield variables


@pytest.fixture(scope="session")
def finished(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A small copy of the project, run once and committed. The first test worker that needs it makes it for all."""
    run = tmp_path_factory.getbasetemp()  # a worker's own folder is in that of the run
    path = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / "finished repository"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            repository = make_repository(path.with_suffix(".new"), environment)
            assert len(ran(repository.dvc("repro"))) == 17
            repository.commit("result")
            repository.path.rename(path)
    return Repository(path, environment)


@pytest.fixture
def repository(finished: Repository, tmp_path: Path) -> Repository:
    """A copy of the finished repository."""
    shutil.copytree(finished.path, tmp_path / "a repository")
    return Repository(tmp_path / "a repository", finished.env)


@pytest.fixture
def tiny_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which nothing has run, as the working folder."""
    monkeypatch.chdir(tmp_path)
    make_tiny_repository(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every stage has run."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_tiny_repository(folder)
        run_all(3)
    return folder


@pytest.fixture
def tiny_finished(tiny_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository in which every stage has run, as the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_original, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of a file, asked again without pauses, in an empty folder."""
    monkeypatch.setattr(fetching, "PAUSES", (0.0,) * 4)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    server = Server()
    yield server
    server.stop()
