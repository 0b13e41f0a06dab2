"""Pictures of many requests in one batch: while the model works, whatever arrives waits for the next batch."""

import asyncio
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.prediction.learner import Answer

LARGEST = 64  # pictures in a batch


class Batcher:
    """Runs one batch at a time, in a thread."""

    def __init__(self, answer: Callable[[Tensor], list[Answer]]) -> None:
        """answer: one answer for each of uint8 [B, S, S, 3]."""
        self._answer = answer
        self._waiting: asyncio.Queue[tuple[Tensor, asyncio.Future[Answer]]] = asyncio.Queue()

    async def ask(self, pixels: Sequence[Tensor]) -> list[Answer]:
        """The answers for pictures [H, W, 3], whenever their batches are done."""
        loop = asyncio.get_running_loop()
        asked = [(one, loop.create_future()) for one in pixels]
        for entry in asked:
            self._waiting.put_nowait(entry)
        return [await future for _, future in asked]

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < LARGEST and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [entry for entry in batch if not entry[1].cancelled()]  # whose client has gone
            if not batch:
                continue
            try:
                answers = await asyncio.to_thread(self._answer, torch.stack([pixels for pixels, _ in batch]))
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), one in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(one)
