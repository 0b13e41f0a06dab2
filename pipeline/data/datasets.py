"""The data sets that `dataset` in params.yaml can name. Each is a function that fetches, finds or draws its images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.data.dvc_sight import check_apart_from_outputs, check_noticed
from pipeline.data.fetch import Missing, missing
from pipeline.data.image_set import ImageSet
from pipeline.data.sets import archive_sets
from pipeline.data.sets.archive_sets import load_cub200, load_imagenet_r, load_tiny_imagenet
from pipeline.data.sets.glyph_images import draw_glyphs
from pipeline.data.sets.image_folder import load_image_folder
from pipeline.errors import UserError


def _torchvision(name: str, scratch: Path) -> ImageSet:
    from pipeline.data.sets import torchvision_sets  # noqa: PLC0415  (takes seconds; other data sets do not need it)

    return torchvision_sets.load(name, scratch)


_OF_TORCHVISION = ("cifar100", "dtd", "eurosat", "fashion_mnist", "flowers102", "food101", "svhn")

# Each function gets an empty folder to unpack archives in.
DATASETS: dict[str, Callable[[Path], ImageSet]] = {
    "glyphs": lambda _: draw_glyphs(),
    "cub200": load_cub200,
    "imagenet_r": load_imagenet_r,
    "tiny_imagenet": load_tiny_imagenet,
    **{name: partial(_torchvision, name) for name in _OF_TORCHVISION},
}
IMAGE_FOLDER = "image_folder"


def missing_files(name: str) -> list[Missing]:
    """The files of a data set to be downloaded. Raises UserError for an unknown name."""
    if name in _OF_TORCHVISION:
        from pipeline.data.sets import torchvision_sets  # noqa: PLC0415  (as above)

        return missing(torchvision_sets.REMOTES[name], name)
    _check_known(name)
    return missing(archive_sets.REMOTES.get(name, []), name)


def fetch_dataset(name: str, *, data_dir: Path, scratch: Path) -> ImageSet:
    """The images of a data set, or of the folder `data_dir`. Raises UserError for an unknown name."""
    if name == IMAGE_FOLDER:
        check_apart_from_outputs(data_dir)
        images = load_image_folder(data_dir)
        check_noticed(data_dir, [*images.train_images, *images.test_images])
        return images
    _check_known(name)
    return DATASETS[name](scratch)


def _check_known(name: str) -> None:
    if name not in DATASETS and name != IMAGE_FOLDER:
        known = ", ".join((*DATASETS, IMAGE_FOLDER))
        raise UserError(f"params.yaml: dataset {name!r} is unknown: choose one of {known}")
