"""A ViT small enough for every test, and a repository in which the small pipeline has run."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dvc_repository import Repository, make_repository, ran, stage_environment

from pipeline.backbone import Backbone, build_backbone
from pipeline.progress import Progress
from pipeline.timm_vit import VisionTransformer

TINY: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
TINY_CONFIG = {"architecture": TINY, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two test workers on two cores."""
    torch.set_num_threads(1)


def tiny_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a tiny ViT, larger than at initialisation and with LayerNorms off their identity."""
    generator = torch.Generator().manual_seed(seed)
    state = VisionTransformer(**TINY, num_classes=0).state_dict()
    return {
        name: (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        + 0.2 * torch.randn(t.shape, generator=generator)
        for name, t in state.items()
    }


@pytest.fixture
def backbone() -> Backbone:
    """The tiny ViT, frozen."""
    return build_backbone(
        tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=torch.device("cpu")
    )


@pytest.fixture
def progress() -> Progress:
    """Progress of which nothing is shown but the lines of epochs."""
    return Progress("test", 0)


def random_images(count: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    """uint8 noise [count, size, size, 3]."""
    return torch.randint(256, (count, size, size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables for commands in the repositories."""
    with stage_environment(tmp_path_factory.mktemp("server")) as variables:
        yield variables


@pytest.fixture(scope="session")
def finished(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A small copy of the project, run once and committed; made by the first test worker that asks, for all."""
    run = tmp_path_factory.getbasetemp()  # a worker's own folder is in that of the run
    path = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / "finished repository"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            repository = make_repository(path.with_suffix(".new"), environment)
            assert len(ran(repository.dvc("repro"))) == 11
            repository.commit("result")
            repository.path.rename(path)
    return Repository(path, environment)


@pytest.fixture
def repository(finished: Repository, tmp_path: Path) -> Repository:
    """A copy of the finished repository."""
    shutil.copytree(finished.path, tmp_path / "a repository")
    return Repository(tmp_path / "a repository", finished.env)
