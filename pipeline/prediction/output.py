"""Writes answers as they come: a table for people, CSV or JSON lines for programs."""

import csv
import io
import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.errors import visible
from pipeline.prediction.learner import Answer
from pipeline.prediction.novelty import Threshold

Answered = Iterable[tuple[Path, Answer]]
_TABLE_ROWS = 256  # a longer answer is several tables, so that memory does not grow with it


def write_table(answered: Answered, threshold: Threshold | None) -> None:
    """Tables on the terminal."""
    caption = None
    if threshold:
        caption = (
            f"novelty above {threshold.value:.4g} means none of these classes, also for "
            f"{threshold.false_alarms:.1%} of {threshold.measured_on} held-out pictures of known classes"
        )
    rows = iter(answered)
    while part := list(islice(rows, _TABLE_ROWS)):
        table = Table("image", "task", "classes", "margin", "novelty", caption=caption)
        table.columns[0].overflow = table.columns[2].overflow = "fold"
        for path, answer in part:
            classes = "\n".join(f"{visible(name)} {share:.0%}" for name, share in answer.best)
            alien = f"{answer.novelty:.1f}" + ("\nnone of these" if answer.is_none else "")
            table.add_row(visible(str(path)), answer.task or "", classes, f"{answer.margin:.2f}", alien)
        Console(highlight=False, markup=False).print(table)


def write_csv(answered: Answered, _: Threshold | None) -> None:
    """A row per picture."""
    _print_row(("image", "class", "probability", "margin", "task", "novelty", "none_of_these"))
    for path, answer in answered:
        numbers = (f"{answer.probability:.6f}", f"{answer.margin:.6f}", answer.task or "", f"{answer.novelty:.3f}")
        _print_row((_text(path), answer.label, *numbers, str(answer.is_none).lower()))


def write_jsonl(answered: Answered, _: Threshold | None) -> None:
    """A line of JSON per picture."""
    for path, answer in answered:
        print(json.dumps({"image": _text(path), **as_json(answer)}, ensure_ascii=False))


def as_json(answer: Answer) -> dict[str, object]:
    """An answer as JSON; numbers have six digits after the point."""
    return {
        "class": answer.label,
        "probability": round(answer.probability, 6),
        "margin": round(answer.margin, 6),
        "task": answer.task,
        "novelty": round(answer.novelty, 3),
        "none_of_these": answer.is_none,
        "classes": [{"class": name, "probability": round(share, 6)} for name, share in answer.best],
    }


WRITERS = {"table": write_table, "csv": write_csv, "jsonl": write_jsonl}


def _print_row(cells: Iterable[str]) -> None:
    text = io.StringIO()
    csv.writer(text).writerow(cells)  # quotes the characters of its own line ending only
    print(text.getvalue().removesuffix("\r\n"))


def _text(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")
