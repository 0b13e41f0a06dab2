"""CIFAR-100 (Krizhevsky 2009): 100 classes, 50,000 training and 10,000 test images of 32 x 32 pixels."""

import tarfile
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.fetch import Remote, fetch
from pipeline.image_set import ImageSet


def load_cifar100(scratch: Path) -> ImageSet:
    """The archive that torchvision names, downloaded and verified, in the official split. Classes have no groups."""
    from pipeline import torchvision_schemas  # noqa: F401, I001, PLC0415  (seconds of imports for this data set only)
    from torchvision.datasets import CIFAR100  # noqa: PLC0415

    archive = fetch(Remote(CIFAR100.url, CIFAR100.tgz_md5))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")  # nothing leaves the folder: no absolute or .. path, link, device
        train, test = (CIFAR100(scratch, train=is_train) for is_train in (True, False))
    except (tarfile.TarError, RuntimeError) as error:  # torchvision: dataset not found or corrupted
        raise UserError(f"{archive} does not hold CIFAR-100 ({error}): delete it, then `dvc repro`") from None
    return ImageSet(
        classes=list(train.classes),
        groups=[""] * len(train.classes),
        train_images=torch.from_numpy(train.data),
        train_labels=torch.tensor(train.targets),
        test_images=torch.from_numpy(test.data),
        test_labels=torch.tensor(test.targets),
    )
