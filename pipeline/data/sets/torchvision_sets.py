"""Data sets that torchvision reads. It lists the files and their MD5; this module fetches and unpacks them for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.machine import torchvision_schemas  # noqa: F401  (before torchvision)

# isort: split
from torchvision import datasets

from pipeline.data.archives import unpack
from pipeline.data.fetch import fetch
from pipeline.data.image_set import ImageSet
from pipeline.data.remote import Remote
from pipeline.data.sets.image_folder import class_files, image_set, stratified_split
from pipeline.errors import UserError, is_refusal

# torchvision has these only inside EuroSAT's download().
_EUROSAT = Remote(
    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
    "c8fa014336c82ac7804f0398fcb19387",
    95,
)
_FLOWERS = datasets.Flowers102


def _of_mnist_kind(cls: type[datasets.MNIST], megabytes: Sequence[float]) -> list[Remote]:
    return [
        Remote(cls.mirrors[0] + file, md5, size) for (file, md5), size in zip(cls.resources, megabytes, strict=True)
    ]


# The files of each data set. torchvision lists no sizes: these are approximate, in megabytes.
REMOTES: dict[str, list[Remote]] = {
    "cifar100": [Remote(datasets.CIFAR100.url, datasets.CIFAR100.tgz_md5, 169)],
    "cifar10": [Remote(datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5, 170)],
    "mnist": _of_mnist_kind(datasets.MNIST, (9.9, 0.1, 1.6, 0.1)),
    "fashion_mnist": _of_mnist_kind(datasets.FashionMNIST, (26.4, 0.1, 4.4, 0.1)),
    "svhn": [
        Remote(datasets.SVHN.split_list[split][0], datasets.SVHN.split_list[split][2], megabytes)
        for split, megabytes in (("train", 182), ("test", 64))
    ],
    "flowers102": [
        Remote(_FLOWERS._download_url_prefix + file, md5, megabytes)
        for (file, md5), megabytes in zip(_FLOWERS._file_dict.values(), (345, 0.1, 0.1), strict=True)
    ],
    "food101": [Remote(datasets.Food101._URL, datasets.Food101._MD5, 4996)],
    "dtd": [Remote(datasets.DTD._URL, datasets.DTD._MD5, 625)],
    "eurosat": [_EUROSAT],
}


def load(name: str, scratch: Path) -> ImageSet:
    """Load a data set of this module; scratch: an empty folder to unpack in. Raises UserError for wrong content."""
    with _described(name):
        return _LOADERS[name](scratch)


def _unpack_all(name: str, folder: Path) -> None:
    """Fetch and unpack every file of a data set."""
    for remote in REMOTES[name]:
        unpack(fetch(remote, name), folder)


def _cifar(name: str, cls: type[datasets.CIFAR10], scratch: Path) -> ImageSet:
    _unpack_all(name, scratch)
    train, test = (cls(scratch, train=is_train) for is_train in (True, False))
    pixels = [torch.from_numpy(split.data) for split in (train, test)]
    return _labelled(train.classes, pixels[0], train.targets, pixels[1], test.targets)


def _mnist(name: str, cls: type[datasets.MNIST], scratch: Path) -> ImageSet:
    _unpack_all(name, scratch / cls.__name__ / "raw")
    train, test = (cls(scratch, train=is_train) for is_train in (True, False))
    colour = [split.data[..., None].expand(-1, -1, -1, 3) for split in (train, test)]  # repeat grey as RGB
    return _labelled(cls.classes, colour[0], train.targets, colour[1], test.targets)


def _svhn(scratch: Path) -> ImageSet:
    _unpack_all("svhn", scratch)
    train, test = (datasets.SVHN(scratch, split=split) for split in ("train", "test"))
    pixels = [torch.from_numpy(np.ascontiguousarray(split.data.transpose(0, 2, 3, 1))) for split in (train, test)]
    return _labelled([str(digit) for digit in range(10)], pixels[0], train.labels, pixels[1], test.labels)


def _flowers102(scratch: Path) -> ImageSet:
    """Trained on the official train and validation splits, 20 images per class, as usual in continual learning."""
    cls = datasets.Flowers102
    _unpack_all("flowers102", scratch / "flowers-102")
    train, val, test = (cls(scratch, split=split) for split in ("train", "val", "test"))
    classes = getattr(cls, "classes", None) or [f"flower {number}" for number in range(1, 103)]
    return _labelled(
        classes, train._image_files + val._image_files, train._labels + val._labels, test._image_files, test._labels
    )


def _food101(scratch: Path) -> ImageSet:
    cls = datasets.Food101
    _unpack_all("food101", scratch)
    train, test = (cls(scratch, split=split) for split in ("train", "test"))
    return _labelled(train.classes, train._image_files, train._labels, test._image_files, test._labels)


def _dtd(scratch: Path) -> ImageSet:
    """The first of the ten official partitions, trained on its train and validation splits."""
    cls = datasets.DTD
    _unpack_all("dtd", scratch / "dtd")
    train, val, test = (cls(scratch, split=split) for split in ("train", "val", "test"))
    files, labels = train._image_files + val._image_files, train._labels + val._labels
    return _labelled(train.classes, files, labels, test._image_files, test._labels)


def _eurosat(scratch: Path) -> ImageSet:
    """There is no official split: about a fifth of each class is for testing, always the same images."""
    _unpack_all("eurosat", scratch)
    return image_set(*stratified_split(class_files(scratch / "2750")))


_LOADERS: dict[str, Callable[[Path], ImageSet]] = {
    "cifar10": partial(_cifar, "cifar10", datasets.CIFAR10),
    "cifar100": partial(_cifar, "cifar100", datasets.CIFAR100),
    "mnist": partial(_mnist, "mnist", datasets.MNIST),
    "fashion_mnist": partial(_mnist, "fashion_mnist", datasets.FashionMNIST),
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
    except UserError:
        raise
    except (RuntimeError, OSError, KeyError, ValueError) as error:  # torchvision: not found, corrupted, misshapen
        if is_refusal(error):
            raise  # not the files' fault
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
