"""The data sets that `dataset` in params.yaml can name, each a function that fetches, finds or makes its images."""

from collections.abc import Callable
from pathlib import Path

from pipeline.cifar100 import load_cifar100
from pipeline.errors import UserError
from pipeline.glyph_images import draw_glyphs
from pipeline.image_folder import load_image_folder
from pipeline.image_set import ImageSet

# From an empty folder, in which archives may be unpacked.
DATASETS: dict[str, Callable[[Path], ImageSet]] = {
    "glyphs": lambda _: draw_glyphs(),
    "cifar100": load_cifar100,
}
IMAGE_FOLDER = "image_folder"


def fetch_dataset(name: str, *, data_dir: Path, scratch: Path) -> ImageSet:
    """The images of a data set, or of the folder `data_dir`. Raises UserError for an unknown name."""
    if name == IMAGE_FOLDER:
        return load_image_folder(data_dir)
    if name not in DATASETS:
        raise UserError(
            f"params.yaml: dataset {name!r} is unknown: choose one of {', '.join((*DATASETS, IMAGE_FOLDER))}"
        )
    return DATASETS[name](scratch)
