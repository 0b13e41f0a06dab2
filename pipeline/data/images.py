"""Images in a memory-mapped file: arrays of one small size, or encoded files (JPEG, PNG) of any size.

An image is read and decoded only when it is needed, so memory does not grow with the data set. While the model works on
a batch, a pool of threads decodes the next one (Pillow decodes and scales without holding Python's lock).
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO

import torch
from torch import Tensor

from pipeline.data.image_files import BadImageError, open_upright, square
from pipeline.errors import REPAIR, UserError
from pipeline.machine.cores import usable_cores


@dataclass(frozen=True)
class Images:
    """A selection of N of the M images in a file, in any order."""

    data: Tensor  # uint8 [M, H, W, 3]; or [bytes], the encoded images one after the other
    offsets: Tensor | None  # int64 [M + 1] where each begins and ends in the bytes; None for arrays
    rows: Tensor  # int64 [N] which of the M images

    @staticmethod
    def of_pixels(pixels: Tensor) -> "Images":
        """All images of uint8 [N, H, W, 3]."""
        return Images(pixels, None, torch.arange(len(pixels)))

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "Images":
        """All images of a packed file (store.artifacts.save_images)."""
        if "bytes" in tensors:
            offsets = tensors["offsets"]
            return Images(tensors["bytes"], offsets, torch.arange(len(offsets) - 1))
        return Images.of_pixels(tensors["images"])

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> "Images":
        """A selection by indices [n], a slice or a mask [N]. Nothing is read yet."""
        return replace(self, rows=self.rows[rows])

    def contents(self) -> Iterator[bytes | Tensor]:
        """Each image as it is stored: the bytes of its file, or uint8 [H, W, 3]."""
        for row in self.rows.tolist():
            yield self.data[row] if self.offsets is None else self._encoded(row, self.offsets)

    def pixels(self, size: int) -> Tensor:
        """uint8 [N, H, W, 3]: arrays as they are; of encoded images the central square, scaled to `size`."""
        return next(self.batches([torch.arange(len(self))], size))

    def batches(self, batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
        """The pixels of each batch of indices. Threads decode the next batch meanwhile."""
        if self.offsets is None:
            for rows in batches:
                yield self.data[self.rows[rows]]
            return
        with ThreadPoolExecutor(usable_cores()) as pool:
            waiting: list[Future[Tensor]] | None = None
            for rows in batches:
                ahead = [pool.submit(self._decode, row, self.offsets, size) for row in self.rows[rows].tolist()]
                if waiting is not None:
                    yield torch.stack([future.result() for future in waiting])
                waiting = ahead
            if waiting is not None:
                yield torch.stack([future.result() for future in waiting])

    def _encoded(self, row: int, offsets: Tensor) -> bytes:
        start, end = offsets[row : row + 2].tolist()
        return self.data[start:end].numpy().tobytes()

    def _decode(self, row: int, offsets: Tensor, size: int) -> Tensor:
        try:
            return square(open_upright(BytesIO(self._encoded(row, offsets)), at_least=size), size)
        except BadImageError as error:
            raise UserError(f"image {row} of a packed file {error}: {REPAIR}") from None
