"""The test images of one task, in the file of all, and the digest by which stages know them.

A task that arrives adds its images at the end of data/test.safetensors. A stage that depended on that file would run
again for images that it has seen. So it depends on the digest of one task's images, and reads their part of the file.
Images that are of no task (task -1) count from the first step on, so they come with the first task.
"""

import hashlib
from pathlib import Path

from torch import Tensor

from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.store import artifacts


def digest(images: Images) -> str:
    """SHA-256 of images as they are stored, in their order."""
    found = hashlib.sha256()
    for content in images.contents():
        what = content if isinstance(content, bytes) else content.numpy().tobytes()
        shape = (len(what),) if isinstance(content, bytes) else tuple(content.shape)
        found.update(repr(shape).encode() + what)
    return found.hexdigest()


def save_digest(task: str, images: Images) -> None:
    """Write the file on which stages depend."""
    artifacts.save_json(artifacts.test_images_file(task), {"images": len(images), "digest": digest(images)})


def read_digest(task: str) -> str:
    """The digest of a task's test images."""
    found: str = artifacts.load_json(artifacts.test_images_file(task))["digest"]
    return found


def load_images(task: str, index: int) -> Images:
    """The test images of a task, by its name and its number from zero.

    Raises UserError if they are not those of its digest, since the two files come from different runs.
    """
    images = _images(artifacts.load_tensors(artifacts.TEST), index)
    if digest(images) != read_digest(task):
        file: Path = artifacts.test_images_file(task)
        raise UserError(f"{artifacts.TEST} is from another run than {file}: run `dvc repro split` or `dvc checkout`")
    return images


def _images(test: dict[str, Tensor], index: int) -> Images:
    return Images.from_tensors(test)[test["tasks"].clamp(min=0) == index]
