"""The one view of a sweep: a bar in a terminal, otherwise a line whenever the count changes."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Show = Callable[[int, str], None]  # how many experiments have finished, and a remark


@contextlib.contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Show]:
    """A function that shows how far a sweep of so many experiments has come."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    shown = -1
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("", total=total)

        def show(finished: int, remark: str) -> None:
            nonlocal shown
            bar.update(row, completed=finished, description=remark)
            if not console.is_terminal and finished != shown:
                console.print(f"{finished} of {total} experiments; {remark}", soft_wrap=True)
                shown = finished

        yield show
