"""The layout in which every data set arrives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """A data set as it comes, before it is packed and cut into tasks.

    Images are uint8 [N, H, W, 3], or files of any size and kind.
    """

    classes: list[str]  # name of each class
    groups: list[str]  # domain of each class; all the same where there are none
    train_images: Tensor | Sequence[Path]
    train_labels: Tensor  # int64 [N], indices into classes
    test_images: Tensor | Sequence[Path]
    test_labels: Tensor
