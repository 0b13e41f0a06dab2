"""Text and tables in Markdown. Imports nothing heavy: commands that only print use it, too."""

import re
from collections.abc import Sequence

from pipeline.errors import visible


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~:@.-])", r"\\\1", visible(text))


def code(text: str) -> str:
    """Text as code, where Markdown can: not if it would end the code, or the cell of a table."""
    return f"`{text}`" if text.isprintable() and not set(text) & set("`|") else escape(text)


def percent(fraction: float) -> str:
    """0.4213 -> 42.1."""
    return f"{100 * fraction:.1f}"
