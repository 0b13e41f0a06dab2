"""The results of the check so far, as JSON and as a page."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.ratios import Row
from pipeline.report.text import table
from pipeline.store import artifacts


@dataclass
class Part:
    """A part, and its state."""

    name: str
    title: str
    state: str = "not begun"
    rows: list[Row] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def add(self, event: dict[str, Any]) -> str:
        """Add an event from its process (benchmarks.gpu.runner). Returns a line for it."""
        if "row" in event:
            row = event["row"]
            same = [(other["name"], other["unit"]) == (row["name"], row["unit"]) for other in self.rows]
            if any(same):
                self.rows[same.index(True)] = row
            else:
                self.rows.append(row)
            return f"{row['name']}: {' '.join(cells(row)[1:]).strip()}"
        for what in ("skipped", "failed"):
            if what in event:
                entry = {"name": event[what], "why": event["why"]}
                entry |= {"traceback": event["traceback"]} if "traceback" in event else {}
                (self.skipped if what == "skipped" else self.failed).append(entry)
                return f"{event[what]}: {what}: {event['why']}"
        return ""


@dataclass
class Report:
    """All parts. It is written after every event."""

    folder: Path
    about: dict[str, Any]
    parts: list[Part]

    def write(self) -> None:
        """Replace both files by the results so far. Raises UserError if they cannot be written."""
        content = self.about | {"parts": [asdict(part) for part in self.parts]}
        artifacts.save_plain_json(self.folder / "gpu.json", content)
        artifacts.save_bytes(self.folder / "gpu.md", page(self.about, self.parts).encode())


def page(about: dict[str, Any], parts: list[Part]) -> str:
    """The report in Markdown."""
    sections = "\n".join(section(number, part) for number, part in enumerate(parts, start=1))
    where = "a GPU" if about["device"] == "cuda" else "a CPU, in miniature: no number here says anything about a GPU"
    return f"""\
# What only a GPU can show

`python -m benchmarks.gpu`, measured on {where}; see benchmarks/gpu. Ranges are over repetitions or seeds.
{about["missing"]}

{sections}"""


def section(number: int, part: Part) -> str:
    """The section of a part."""
    lines = [f"## {number}. {part.title}", "", f"{part.state.capitalize()}.", ""]
    if part.rows:
        lines += [table(("what", "value", "range", "goal", "unit", "note"), [cells(row) for row in part.rows]), ""]
    for what, entries in (("Skipped", part.skipped), ("Failed", part.failed)):
        lines += [f"{what}: {entry['name']} ({entry['why']})." for entry in entries]
        lines += [""] * bool(entries)
    return "\n".join(lines)


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row as text."""
    spread = "" if row["spread"] is None else f"{number(row['spread'][0])} to {number(row['spread'][1])}"
    return row["name"], number(row["value"]), spread, row["goal"], row["unit"], row["note"]


def number(value: float | str) -> str:
    """A number with three significant digits, or all digits before the point."""
    if isinstance(value, str):
        return value
    value += 0.0  # -0 is 0
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"
