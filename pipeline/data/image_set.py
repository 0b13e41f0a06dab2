"""The layout in which every data set is returned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """A data set before it is packed and cut into tasks.

    Images are uint8 [N, H, W, 3], or image files of any size and format.
    """

    classes: list[str]  # name of each class
    groups: list[str]  # domain of each class; all the same without domains
    train_images: Tensor | Sequence[Path]
    train_labels: Tensor  # int64 [N], indices into classes
    test_images: Tensor | Sequence[Path]
    test_labels: Tensor
    notes: Sequence[str] = ()  # one line each on how it was read, for the user
    domains: Sequence[str] = ()  # names of the domains that images come from, if the data set has them
    train_domains: Tensor | None = None  # int64 [N], indices into domains
    test_domains: Tensor | None = (
        None  # None beside domains: test images are of none of them, and count after each task
    )

    def __post_init__(self) -> None:
        """Raises UserError if the fields do not fit together."""
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise UserError(f"the data set has two classes named {twice[0]!r}: rename one")
        for kind, images, labels, domains in (
            ("training", self.train_images, self.train_labels, self.train_domains),
            ("test", self.test_images, self.test_labels, self.test_domains),
        ):
            lacks = domains is None and kind == "training"
            if self.domains and (lacks or (domains is not None and len(domains) != len(labels))):
                raise UserError(f"the data set has domains, but not one for each of its {len(labels)} {kind} images")
            if len(images) != len(labels):
                raise UserError(f"the data set has {len(images)} {kind} images, but {len(labels)} labels for them")
            outside = labels[(labels < 0) | (labels >= len(self.classes))].tolist()
            if outside:
                raise UserError(f"the data set has {len(self.classes)} classes, but a {kind} label {outside[0]}")
            if isinstance(images, Tensor) and (images.dtype != torch.uint8 or images.shape[3:] != (3,)):
                raise UserError(f"{kind} images are {images.dtype} {list(images.shape)}: expected uint8 [N, H, W, 3]")
