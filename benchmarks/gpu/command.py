"""Measures everything that only a GPU can show, in one command.

    python -m benchmarks.gpu OUT_FOLDER [--images FOLDER --weights FILE] [--minutes 8] [--part NAME] [--device cpu]

It needs no network and no DVC: stages run in order as plain processes. The most important part comes first, and
OUT_FOLDER/gpu.json and gpu.md are replaced after every row, so a run that is cut off keeps its results so far. A part
may take its share of the remaining minutes, and leaves the rest to later parts. When time is over, the remaining parts
are marked as skipped. With `--device cpu` everything runs in miniature; this is the test of the check.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.gpu import accuracy, authors, card, inputs, repeat, vit
from benchmarks.gpu.measuring import Setup
from benchmarks.gpu.packages import OPTIONAL, missing
from benchmarks.gpu.report import Part, Report
from benchmarks.gpu.runner import Event, run_part, why_not
from pipeline.errors import UserError
from pipeline.runtime.command import run_app

TITLES = {module.__name__.rpartition(".")[2]: module.TITLE for module in (card, vit, authors, accuracy, repeat, inputs)}
SHARES = {"card": 0.2, "vit": 0.4, "authors": 0.3, "accuracy": 0.6, "repeat": 0.6, "inputs": 1.0}
_OVERTIME = 0.5  # share of the remaining time that a measurement begun in time may still take


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT_FOLDER", help="Where gpu.json and gpu.md are written.")],
    images: Annotated[Path | None, typer.Option(help="CIFAR-100 as a folder train/CLASS/*, test/CLASS/*.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of timm's vit_tiny_patch16_224.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=1000, help="It stops after this many minutes.")] = 8,
    part: Annotated[
        list[str] | None, typer.Option(help=f"Measure only this part; may be repeated: {', '.join(TITLES)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu: every part in miniature.")] = "cuda",
) -> None:
    """Measure what only a GPU can show, the most important part first."""
    started = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    if unknown := set(part or ()) - TITLES.keys():
        raise UserError(f"--part {min(unknown)!r} is unknown: choose among {', '.join(TITLES)}")
    setup = make_setup(device, images, weights)
    lacking = [f"{name} ({OPTIONAL[name]})" for name in setup.missing]
    remark = f"Not installed, so left out: {', '.join(lacking)}." if lacking else "No optional package is missing."
    console.print(remark)
    about = {"device": device, "minutes": minutes, "start_method": setup.start_method, "missing": remark}
    report = Report(out, about, [Part(name, title) for name, title in TITLES.items() if not part or name in part])
    report.write()
    end = started + 60 * minutes
    for number, one in enumerate(report.parts, start=1):
        console.print(f"\n{number}. {one.title}")
        measure(one, setup, report, end, console)
    failures = sum(len(one.failed) for one in report.parts)
    console.print(f"\n{out / 'gpu.md'}, after {time.monotonic() - started:.0f} s")
    if failures:
        raise UserError(f"{failures} measurements failed: {out / 'gpu.json'} says where")


def make_setup(device: str, images: Path | None, weights: Path | None) -> Setup:
    """The setup for these arguments. Raises UserError for a missing device or missing files."""
    if device not in ("cuda", "cpu"):
        raise UserError(f"--device {device!r} is unknown: choose cuda or cpu")
    if (images is None) != (weights is None):
        raise UserError("--images and --weights belong together: give both, or neither")
    if images and not all((images / split).is_dir() for split in ("train", "test")):
        raise UserError(f"--images {images} has no folders train and test: expected train/CLASS/* and test/CLASS/*")
    if weights and not weights.is_file():
        raise UserError(f"--weights {weights} is no file: expected weights of timm's vit_tiny_patch16_224")
    images, weights = (images.resolve(), weights.resolve()) if images and weights else (None, None)
    setup = Setup(device, images, weights, "fork", tuple(missing(OPTIONAL)))
    if reason := why_not(setup):  # libraries that look for GPUs on import make them unusable in a fork
        setup = replace(setup, start_method="spawn")
        if why_not(setup):
            raise UserError(f"no GPU can be used ({reason}): --device cpu runs every part in miniature")
    return setup


def measure(part: Part, setup: Setup, report: Report, end: float, console: Console) -> None:
    """Run a part within its share of the remaining time, and write the report after every row."""
    begun = time.monotonic()
    if begun >= end:
        part.state = "skipped: the minutes were over"
        console.print(part.state)
        report.write()
        return

    def tell(event: Event) -> None:
        if line := part.add(event):
            console.print(f"   {line}")
            report.write()

    part.state = "under way"
    report.write()
    until = begun + SHARES[part.name] * (end - begun)
    run_part(part.name, setup, begin_until=until, end=until + _OVERTIME * (end - until), tell=tell)
    part.state = f"done in {time.monotonic() - begun:.0f} s"
    report.write()


def run() -> None:
    """Run the command. A user's mistake is one line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_app(app)
