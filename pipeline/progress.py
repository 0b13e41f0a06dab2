"""Live progress of a stage: a bar on a terminal; elsewhere one line per epoch, at most one per second."""

import math
import time
from types import TracebackType
from typing import Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from pipeline.errors import DivergedError

_SECONDS_BETWEEN_LINES = 1.0


class Progress:
    """Counts images and averages the loss. The loss is fetched from the device once per epoch, never within one."""

    def __init__(self, title: str, images: int) -> None:
        """images: how many images the stage passes through the model or classifier in total; 0 if unknown."""
        self._console = Console(highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            refresh_per_second=4,
        )
        self._row = self._bar.add_task(title, total=images or None, speed=0.0, note="")
        self._title = title
        self._done, self._started, self._printed = 0, time.monotonic(), 0.0
        self._losses: list[Tensor] = []

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def step(self, images: int, loss: Tensor | None = None) -> None:
        """Count another batch."""
        self._done += images
        if loss is not None:
            self._losses.append(loss.detach())
        self._bar.update(self._row, advance=images, speed=self._speed())

    def resume(self, epochs_done: int, epochs: int) -> None:
        """Start after the epochs that an earlier process has finished."""
        total = self._bar.tasks[self._row].total or 0
        self._bar.update(self._row, completed=total * epochs_done / epochs)
        self._console.print(f"{self._title}: resuming after epoch {epochs_done} of {epochs}", soft_wrap=True)

    def end_epoch(self, epoch: int, epochs: int, *, remedy: str) -> None:
        """Show the mean loss of zero-based `epoch`. Raises DivergedError if it is not finite."""
        loss = float(torch.stack(self._losses).mean())
        self._losses.clear()
        self._show(f"epoch {epoch + 1}/{epochs}, loss {loss:.3f}", last=epoch + 1 == epochs)
        if not math.isfinite(loss):
            raise DivergedError(f"{self._title}: the loss is not finite in epoch {epoch + 1} of {epochs}: {remedy}")

    def finish(self) -> None:
        """Print the number of images and the speed, for work without epochs."""
        self._show(f"{self._done} images", last=True)

    def _speed(self) -> float:
        return self._done / max(time.monotonic() - self._started, 1e-9)

    def _show(self, note: str, *, last: bool) -> None:
        self._bar.update(self._row, note=note)
        now = time.monotonic()
        if not self._console.is_terminal and (last or now - self._printed >= _SECONDS_BETWEEN_LINES):
            self._console.print(f"{self._title}: {note}, {self._speed():.0f} images/s", soft_wrap=True)
            self._printed = now
