"""5-Datasets (Ebrahimi et al. 2020, arXiv 2003.09553): five sets of ten classes; and notMNIST, one of them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.archives import unpack
from pipeline.data.fetch import fetch
from pipeline.data.image_files import BadImageError, open_upright, pixels
from pipeline.data.image_listing import list_folders
from pipeline.data.image_set import ImageSet
from pipeline.data.remote import Remote
from pipeline.data.sets.image_folder import Files, image_set
from pipeline.errors import UserError

# In the order of the public ports of L2P and DualPrompt; `class_order: natural` learns them so.
PARTS = ("svhn", "mnist", "cifar10", "not_mnist", "fashion_mnist")
REMOTES = {
    "not_mnist": [
        Remote("https://github.com/facebookresearch/Adversarial-Continual-Learning/raw/main/data/notMNIST.zip", None)
    ]
}


def load_not_mnist(scratch: Path) -> ImageSet:
    """notMNIST (Bulatov 2011), the small one, in the split of 5-Datasets: letters A to J of many fonts, 28 pixels.

    The published archive holds a few files that are no images. They are left out, as by everybody.
    """
    for remote in REMOTES["not_mnist"]:
        unpack(fetch(remote, "not_mnist"), scratch)
    found, notes = [], []
    for split in ("Train", "Test"):
        folder = scratch / "notMNIST" / split
        if not folder.is_dir():
            raise UserError(f"the archive of not_mnist holds no folder notMNIST/{split}: delete it in downloads/")
        files: Files = {}
        for letter in list_folders(folder):
            listed = sorted(path for path in letter.iterdir() if path.is_file())
            files[letter.name] = [path for path in listed if _is_readable(path)]
            if broken := len(listed) - len(files[letter.name]):
                notes.append(f"not_mnist: left out {broken} files of {split}/{letter.name}, which are no images")
        found.append(files)
    return image_set(*found, notes=notes)


def _is_readable(path: Path) -> bool:
    try:
        open_upright(path)
    except BadImageError:
        return False
    return True


def joined(parts: Sequence[tuple[str, ImageSet]]) -> ImageSet:
    """The sets one after another. Images are 32 x 32; those of 28 pixels get a black border of two, as in 5-Datasets.

    A set is a group, so with ten classes per task each task is one set, whatever the order of classes. Raises UserError
    for images of another size.
    """
    classes = [f"{name} {c}" for name, images in parts for c in images.classes]
    groups = [name for name, images in parts for _ in images.classes]
    starts = torch.tensor([0, *(len(images.classes) for _, images in parts)]).cumsum(0)
    train, test = (
        torch.cat([_arrays(name, images) for name, images in side])
        for side in (
            [(name, images.train_images) for name, images in parts],
            [(name, images.test_images) for name, images in parts],
        )
    )
    labels = [
        torch.cat([of + start for of, start in zip(side, starts, strict=False)])
        for side in ([images.train_labels for _, images in parts], [images.test_labels for _, images in parts])
    ]
    notes = [note for _, images in parts for note in images.notes]
    return ImageSet(classes, groups, train, labels[0], test, labels[1], notes)


def _arrays(name: str, images: Tensor | Sequence[Path]) -> Tensor:
    """uint8 [N, 32, 32, 3]."""
    if not isinstance(images, Tensor):
        arrays = [pixels(open_upright(path)) for path in images]
        sizes = {tuple(array.shape[:2]) for array in arrays}
        if len(sizes) != 1:
            raise UserError(f"{name} holds images of {len(sizes)} sizes: delete it in downloads/")
        images = torch.stack(arrays)
    if images.shape[1:3] not in {(28, 28), (32, 32)}:
        raise UserError(
            f"{name} holds images of {images.shape[2]} x {images.shape[1]} pixels, and 5-Datasets has 32 or 28: delete "
            "it in downloads/"
        )
    border = (32 - images.shape[1]) // 2
    return functional.pad(images, (0, 0, border, border, border, border))
