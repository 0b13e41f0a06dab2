"""The data sets that `dataset` in params.yaml can name. Each is a function that fetches, finds or draws its images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.data.dvc_sight import check_apart_from_outputs, check_noticed
from pipeline.data.image_set import ImageSet
from pipeline.data.remote import Missing, Remote, missing
from pipeline.data.sets import archive_sets, field_sets, five_datasets
from pipeline.data.sets.archive_sets import load_cub200, load_imagenet_r, load_tiny_imagenet
from pipeline.data.sets.domain_folder import load_domain_folder
from pipeline.data.sets.glyph_images import draw_glyph_domains, draw_glyphs
from pipeline.data.sets.image_folder import load_image_folder
from pipeline.errors import UserError


def _torchvision(name: str, scratch: Path) -> ImageSet:
    from pipeline.data.sets import torchvision_sets  # noqa: PLC0415  (takes seconds; other data sets do not need it)

    return torchvision_sets.load(name, scratch)


def _five_datasets(scratch: Path) -> ImageSet:
    return five_datasets.joined([(name, DATASETS[name](scratch / name)) for name in five_datasets.PARTS])


_OF_TORCHVISION = (
    "cifar10",
    "cifar100",
    "dtd",
    "eurosat",
    "fashion_mnist",
    "flowers102",
    "food101",
    "mnist",
    "svhn",
)

_FILES_OF = {"five_datasets": five_datasets.PARTS, "core50_sessions": ("core50",)}  # files that several data sets use

# Each function gets an empty folder to unpack archives in.
DATASETS: dict[str, Callable[[Path], ImageSet]] = {
    "glyphs": lambda _: draw_glyphs(),
    "cub200": load_cub200,
    "imagenet_r": load_imagenet_r,
    "tiny_imagenet": load_tiny_imagenet,
    "not_mnist": five_datasets.load_not_mnist,
    "five_datasets": _five_datasets,
    **field_sets.LOADERS,
    **{name: partial(_torchvision, name) for name in _OF_TORCHVISION},
}
IMAGE_FOLDER = "image_folder"
WITH_DOMAINS = ("glyphs", *field_sets.WITH_DOMAINS, IMAGE_FOLDER)
_DOMAIN_FORMS: dict[str, Callable[[Path], ImageSet]] = {"glyphs": lambda _: draw_glyph_domains()}


def missing_files(name: str) -> list[Missing]:
    """The files of a data set to be downloaded. Raises UserError for an unknown name."""
    _check_known(name)
    parts = _FILES_OF.get(name, (name,))
    return [file for part in parts for file in missing(_remotes(part), part)]


def _remotes(name: str) -> list[Remote]:
    if name in _OF_TORCHVISION:
        from pipeline.data.sets import torchvision_sets  # noqa: PLC0415  (as above)

        return torchvision_sets.REMOTES[name]
    return (archive_sets.REMOTES | field_sets.REMOTES | five_datasets.REMOTES).get(name, [])


def check_domains(name: str) -> None:
    """Raises UserError for a data set without domains."""
    _check_known(name)
    if name not in WITH_DOMAINS:
        raise UserError(
            f"params.yaml: setting: domain needs a data set with domains, and {name} has none: choose one of "
            f"{', '.join(WITH_DOMAINS)}, or set setting: class"
        )


def fetch_dataset(name: str, *, data_dir: Path, scratch: Path, domains: bool = False) -> ImageSet:
    """The images of a data set, or of the folder `data_dir`. Raises UserError for an unknown name.

    domains: whether tasks will be domains. A data set that always has domains is the same either way.
    """
    if name == IMAGE_FOLDER:
        check_apart_from_outputs(data_dir)
        images = load_domain_folder(data_dir) if domains else load_image_folder(data_dir)
        check_noticed(data_dir, [*images.train_images, *images.test_images])
        return images
    _check_known(name)
    forms = DATASETS | _DOMAIN_FORMS if domains else DATASETS
    return forms[name](scratch)


def _check_known(name: str) -> None:
    if name not in DATASETS and name != IMAGE_FOLDER:
        known = ", ".join((*DATASETS, IMAGE_FOLDER))
        raise UserError(f"params.yaml: dataset {name!r} is unknown: choose one of {known}")
