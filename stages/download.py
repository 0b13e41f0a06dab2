"""Fetch the data set and the backbone's weights, and pack them in one layout for every source."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from torch import Tensor

from pipeline.backbone.pretrained import EMBEDDED, fetch_backbone, missing_weights
from pipeline.data.datasets import check_domains, fetch_dataset, missing_files
from pipeline.data.fetch import check_network
from pipeline.data.packing import are_arrays, content_numbers, stored, value_ranges
from pipeline.data.remote import Missing
from pipeline.data.sets.image_folder import listing_digest
from pipeline.data.split_lists import resplit
from pipeline.errors import UserError, is_refusal, visible
from pipeline.params import Record, read_params
from pipeline.runtime.command import run
from pipeline.store import artifacts

_PREFIX = f"unpacked-{platform.node()}-"  # machines may share a folder of temporary files


class Params(Record):
    """What to fetch."""

    dataset: str
    data_dir: str
    split: str
    backbone: str
    backbone_weights: str


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder to unpack in. Raises UserError if there is no room or no access for temporary files.

    A stage that is killed has no time to remove its folder, which may take gigabytes. So the next one does.
    """
    remedy = "make room or grant access there, or set TMPDIR to another folder for temporary files"
    try:
        _remove_abandoned()
        with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder:
            yield Path(folder)
    except FileNotFoundError as error:
        if error.filename:
            raise
        raise UserError(f"{error.strerror}: {remedy}") from None
    except OSError as error:
        if not is_refusal(error):
            raise
        raise UserError(f"{error.filename or tempfile.gettempdir()}: {error.strerror}: {remedy}") from None


def _remove_abandoned() -> None:
    """Remove the folders of this machine's processes that are gone."""
    for folder in Path(tempfile.gettempdir()).iterdir():
        owner = re.fullmatch(rf"{re.escape(_PREFIX)}(\d{{1,9}})-\w+", folder.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            shutil.rmtree(folder, ignore_errors=True)


def announce(files: Sequence[Missing]) -> None:
    """List all files to be downloaded before the first download. Raises UserError if there is no network."""
    for file in files:
        print(f"to be downloaded: {file}", flush=True)
    check_network(files)


def main() -> None:
    """Fetch the data set and the backbone's weights."""
    params = read_params(Params)
    weights_file = Path(params.backbone_weights)
    are_domains = artifacts.load_json(artifacts.STREAM)["tasks_are"] == "domains"
    if are_domains:
        check_domains(params.dataset)
    announce([*missing_files(params.dataset), *missing_weights(params.backbone, weights_file)])
    weights, config = fetch_backbone(params.backbone, weights_file)
    artifacts.save_weights(artifacts.BACKBONE, weights, config)
    with scratch_folder() as scratch:
        dataset = fetch_dataset(params.dataset, data_dir=Path(params.data_dir), scratch=scratch, domains=are_domains)
        dataset = resplit(dataset, params.split, domains=are_domains)
        arrays = are_arrays(dataset.train_images, dataset.test_images)
        ranges, notes = value_ranges(dataset.train_images, dataset.test_images)
        contents = content_numbers(dataset.train_images)  # they decide which images are held out for validation
        of_train, of_test = (
            {} if of is None else {"domains": of} for of in (dataset.train_domains, dataset.test_domains)
        )
        for file, images, fields in (
            (
                artifacts.RAW_TRAIN,
                dataset.train_images,
                {"labels": dataset.train_labels, "contents": contents} | of_train,
            ),
            (artifacts.RAW_TEST, dataset.test_images, {"labels": dataset.test_labels} | of_test),
        ):
            artifacts.save_images(file, stored(images, arrays=arrays, ranges=ranges), fields)
    facts: dict[str, object] = {"classes": dataset.classes, "groups": dataset.groups}
    if are_domains:
        facts["domains"] = list(dataset.domains)  # each is a task
    if not isinstance(dataset.test_images, Tensor):
        facts["test_files"] = listing_digest(dataset.test_images)
    if ranges:
        facts["ranges"] = ranges  # predict scales images by the same ranges
    artifacts.save_json(artifacts.RAW_CLASSES, facts)
    for note in (*dataset.notes, *notes):
        print(visible(note))
    print(
        f"{params.dataset}: {len(dataset.classes)} classes, {len(dataset.train_labels)} training and "
        f"{len(dataset.test_labels)} test images; backbone {params.backbone}"
    )
    if params.backbone in EMBEDDED and params.dataset != "glyphs":
        print(
            f"warning: backbone {params.backbone} was pretrained only on drawn characters of 32 pixels: for "
            "photographs choose a Vision Transformer pretrained on them: `python -m pipeline preset photographs`"
        )


if __name__ == "__main__":
    run(main)
