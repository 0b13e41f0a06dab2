"""Text and tables in Markdown. It imports nothing heavy, since commands that only print use it, too."""

import re
from collections.abc import Sequence

from pipeline.errors import visible


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. The first column is aligned left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """The text on one line, escaped so that Markdown and HTML show it unchanged."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~:@.-])", r"\\\1", visible(text))


def code(text: str) -> str:
    """The text as Markdown code, unless it would end the code or a table cell."""
    return f"`{text}`" if text and text.isprintable() and not set(text) & set("`|") else escape(text)


def percent(fraction: float) -> str:
    """0.4213 -> 42.1. A half is a half however it was computed: 0.6305 and 0.6305000000000001 are both 63.0."""
    return f"{round(100 * fraction, 6):.1f}"
