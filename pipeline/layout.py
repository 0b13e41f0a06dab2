"""How a feature vector is divided. The record is stored with features; statistics per vector need it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A feature consists of `blocks * per_block` vectors of `dim` numbers, those of one block side by side.

    The last block of the backbone comes first, and the first vector is always the output of the model itself.
    """

    dim: int  # D
    blocks: int = 1  # K
    per_block: int = 1

    @property
    def vectors(self) -> int:
        """V, the number of vectors."""
        return self.blocks * self.per_block

    @property
    def size(self) -> int:
        """V D, the length of a feature."""
        return self.vectors * self.dim

    @property
    def of_block(self) -> "Layout":
        """The layout of what one block contributes."""
        return Layout(self.dim, 1, self.per_block)

    def metadata(self) -> dict[str, str]:
        """As text, to be stored with features."""
        return {"dim": str(self.dim), "blocks": str(self.blocks), "per_block": str(self.per_block)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> "Layout":
        """The layout of features that were stored with this metadata."""
        return Layout(int(metadata["dim"]), int(metadata["blocks"]), int(metadata["per_block"]))


def single(features: Tensor) -> Layout:
    """The layout of features [..., D] that are one vector."""
    return Layout(features.shape[-1])
