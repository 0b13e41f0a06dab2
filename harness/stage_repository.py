"""The stages, called as functions, in a folder with a tiny ViT and a tiny data set."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from typer.testing import CliRunner

from harness.parameters import PLAIN, set_params
from harness.root import ROOT
from harness.stage_order import BEFORE_TASKS, in_order, run_stage, run_stages
from harness.tiny import TINY_CONFIG, random_images, tiny_weights
from pipeline.__main__ import app
from pipeline.data.packing import content_numbers
from pipeline.errors import UserError
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.store import artifacts

CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS = 8, 10, 5


def write_raw_data() -> None:
    """Write eight classes of noise around a colour, in two groups, and a tiny backbone, as download writes them."""
    colours = random_images(CLASSES, seed=9, size=1).float()
    for file, count, seed in ((artifacts.RAW_TRAIN, TRAIN_PER_CLASS, 1), (artifacts.RAW_TEST, TEST_PER_CLASS, 2)):
        labels = torch.arange(CLASSES).repeat_interleave(count)
        images = 0.6 * colours[labels] + 0.4 * random_images(len(labels), seed).float()
        images = images.to(torch.uint8)
        artifacts.save_images(file, iter(images), {"labels": labels, "contents": content_numbers(images)})
    names = [f"class {c}" for c in range(CLASSES)]
    artifacts.save_json(artifacts.RAW_CLASSES, {"classes": names, "groups": ["even", "odd"] * (CLASSES // 2)})
    artifacts.save_weights(artifacts.BACKBONE, tiny_weights(), TINY_CONFIG)


def refusal(act: Callable[[], object]) -> str:
    """The message of the UserError that an action raises; empty if it raises none."""
    try:
        act()
    except UserError as error:
        return str(error)
    return ""


def prepare() -> None:
    """Run the stages before the first training, except download."""
    count = len(read_mapping(PARAMS_FILE)["tasks"])
    run_stages(count, {*BEFORE_TASKS, "queries", "keys"} - {"download"})


def frozen_flops() -> int:
    """Operations of a frozen pass, as the stages have counted them."""
    return int(artifacts.load_metadata(artifacts.test_queries_file("t1"))["flops"])


def run_all(tasks: int) -> None:
    """Run every stage except download, in DVC's order."""
    for stage, *task in in_order(tasks):
        if stage != "download":
            run_stage(stage, *task)


def digests(*folders: str) -> dict[str, str]:
    """SHA-256 of every file in some folders."""
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def make_repository(folder: Path) -> None:
    """Write the project's own dvc.yaml and params.yaml into the folder, for three tasks of two classes."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / "params.yaml", folder)
    write_raw_data()
    set_params(Path("params.yaml"), **PLAIN | {"classes_per_task": 2, "image_size": 16}, epochs=2, classifier_epochs=3)
    assert CliRunner().invoke(app, ["plan", "3"]).exit_code == 0
