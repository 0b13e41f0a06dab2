"""The data sets that `dataset` in params.yaml can name, each a function that fetches or makes its images."""

from collections.abc import Callable

from pipeline.cifar100 import load_cifar100
from pipeline.errors import UserError
from pipeline.glyph_images import draw_glyphs
from pipeline.image_set import ImageSet

DATASETS: dict[str, Callable[[], ImageSet]] = {"glyphs": draw_glyphs, "cifar100": load_cifar100}


def fetch_dataset(name: str) -> ImageSet:
    """The images of a data set. Raises UserError for an unknown name."""
    if name not in DATASETS:
        raise UserError(f"params.yaml: dataset {name!r} is unknown: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]()
