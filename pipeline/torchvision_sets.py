"""Data sets that torchvision reads: it names the files and their MD5; we fetch and unpack them where it looks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from pipeline import torchvision_schemas  # noqa: F401  (before torchvision)
from pipeline.archives import unpack
from pipeline.errors import UserError
from pipeline.fetch import Remote, fetch
from pipeline.image_folder import class_files, image_set, stratified_split
from pipeline.image_set import ImageSet

# In EuroSAT's download() only.
_EUROSAT = Remote(
    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
    "c8fa014336c82ac7804f0398fcb19387",
)


def load(name: str, scratch: Path) -> ImageSet:
    """A data set of this module, with an empty folder to unpack in. Raises UserError for content that is another."""
    with _described(name):
        return _LOADERS[name](scratch)


def _cifar100(scratch: Path) -> ImageSet:
    cls = datasets.CIFAR100
    unpack(fetch(Remote(cls.url, cls.tgz_md5), "cifar100"), scratch)
    train, test = (cls(scratch, train=is_train) for is_train in (True, False))
    pixels = [torch.from_numpy(split.data) for split in (train, test)]
    return _labelled(train.classes, pixels[0], train.targets, pixels[1], test.targets)


def _fashion_mnist(scratch: Path) -> ImageSet:
    cls = datasets.FashionMNIST
    for file, md5 in cls.resources:
        unpack(fetch(Remote(cls.mirrors[0] + file, md5), "fashion_mnist"), scratch / "FashionMNIST/raw")
    train, test = (cls(scratch, train=is_train) for is_train in (True, False))
    colour = [split.data[..., None].expand(-1, -1, -1, 3) for split in (train, test)]  # grey three times
    return _labelled(cls.classes, colour[0], train.targets, colour[1], test.targets)


def _svhn(scratch: Path) -> ImageSet:
    for split in ("train", "test"):
        url, _, md5 = datasets.SVHN.split_list[split]
        unpack(fetch(Remote(url, md5), "svhn"), scratch)
    train, test = (datasets.SVHN(scratch, split=split) for split in ("train", "test"))
    pixels = [torch.from_numpy(np.ascontiguousarray(split.data.transpose(0, 2, 3, 1))) for split in (train, test)]
    return _labelled([str(digit) for digit in range(10)], pixels[0], train.labels, pixels[1], test.labels)


def _flowers102(scratch: Path) -> ImageSet:
    """Training is the official train and validation split, 20 images a class, as continual learning takes it."""
    cls = datasets.Flowers102
    for file, md5 in cls._file_dict.values():
        unpack(fetch(Remote(cls._download_url_prefix + file, md5), "flowers102"), scratch / "flowers-102")
    train, val, test = (cls(scratch, split=split) for split in ("train", "val", "test"))
    classes = getattr(cls, "classes", None) or [f"flower {number}" for number in range(1, 103)]
    return _labelled(
        classes, train._image_files + val._image_files, train._labels + val._labels, test._image_files, test._labels
    )


def _food101(scratch: Path) -> ImageSet:
    cls = datasets.Food101
    unpack(fetch(Remote(cls._URL, cls._MD5), "food101"), scratch)
    train, test = (cls(scratch, split=split) for split in ("train", "test"))
    return _labelled(train.classes, train._image_files, train._labels, test._image_files, test._labels)


def _dtd(scratch: Path) -> ImageSet:
    """The first of the ten official partitions; training is its train and validation split."""
    cls = datasets.DTD
    unpack(fetch(Remote(cls._URL, cls._MD5), "dtd"), scratch / "dtd")
    train, val, test = (cls(scratch, split=split) for split in ("train", "val", "test"))
    files, labels = train._image_files + val._image_files, train._labels + val._labels
    return _labelled(train.classes, files, labels, test._image_files, test._labels)


def _eurosat(scratch: Path) -> ImageSet:
    """No official split: about a fifth of each class is for testing, always the same."""
    unpack(fetch(_EUROSAT, "eurosat"), scratch)
    return image_set(*stratified_split(class_files(scratch / "2750")))


_LOADERS = {
    "cifar100": _cifar100,
    "fashion_mnist": _fashion_mnist,
    "svhn": _svhn,
    "flowers102": _flowers102,
    "food101": _food101,
    "dtd": _dtd,
    "eurosat": _eurosat,
}


@contextmanager
def _described(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, KeyError, ValueError) as error:  # torchvision: not found, corrupted, misshapen
        raise UserError(
            f"downloads/{name} does not hold {name} ({error}): delete that folder, then `dvc repro`"
        ) from None


def _labelled(
    classes: Sequence[str],
    train_images: Tensor | Sequence[Path],
    train_labels: Any,  # noqa: ANN401  (a list, an array or a tensor)
    test_images: Tensor | Sequence[Path],
    test_labels: Any,  # noqa: ANN401
) -> ImageSet:
    train, test = (torch.as_tensor(labels, dtype=torch.int64) for labels in (train_labels, test_labels))
    return ImageSet(list(classes), [""] * len(classes), train_images, train, test_images, test)
