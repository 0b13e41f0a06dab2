"""The layout in which every data set arrives."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """A data set as it comes, before it is cut into tasks."""

    classes: list[str]  # name of each class
    groups: list[str]  # domain of each class; all the same where there are none
    train_images: Tensor  # uint8 [N, H, W, 3]
    train_labels: Tensor  # int64 [N], indices into classes
    test_images: Tensor
    test_labels: Tensor
