"""Compares the pipeline with the least time that its work could take: python -m benchmarks.speed [IMAGES WEIGHTS].

Every claim is a ratio of two things measured in turn in one run. A slow or busy machine then affects both sides alike.
Writes reports/benchmarks/speed.{md,json}. With IMAGES and WEIGHTS (see benchmarks.studies.cifar100_vit_tiny), the
comparison with the authors' schedule runs on them, too.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.speed import against_authors, growth, several_devices, step_costs
from benchmarks.speed.ratios import Row, machine_name
from benchmarks.studies.cifar100_vit_tiny import NUM_TASKS, params_of
from harness.clone import ROOT
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/speed.json"


def page(machine: str, rows: list[Row]) -> str:
    """The table in Markdown."""
    cells = [
        (
            row["name"],
            f"{row['ratio']:.2f}",
            "" if row["spread"] is None else f"{row['spread'][0]:.2f} to {row['spread'][1]:.2f}",
            row["goal"],
            row["unit"],
        )
        for row in rows
    ]
    return f"""\
# Speed

{machine}. `python -m benchmarks.speed`: ratios of two things measured in turn, as medians over repetitions with their
spread. A forward-equivalent is a forward pass of one image; a step of stage one counts as two. Rows on the authors'
schedule: means over seeds, and their range.

{table(("what", "ratio", "spread", "goal", "unit"), cells)}
"""


def main(
    images: Annotated[Path | None, typer.Argument(help="Folder train/CLASS/*, test/CLASS/*.")] = None,
    weights: Annotated[Path | None, typer.Argument(help="Weights of vit_tiny_patch16_224.")] = None,
) -> None:
    """Measure, print, write."""
    rows: list[Row] = []
    for name in ("glyph_vit", "vit_tiny_patch16_224"):
        rows += [*step_costs.rows(name), *step_costs.memory_rows(name), *step_costs.compile_rows(name)]
    rows += step_costs.allocator_rows("vit_small_patch16_224")
    rows += against_authors.rows("speed", "glyphs", NUM_TASKS, {})
    if images and weights:
        rows += against_authors.rows("speed_cifar100", "CIFAR-100, ViT-Ti/16", NUM_TASKS, params_of(images, weights))
    rows += growth.rows()
    rows += several_devices.rows()
    machine = machine_name()
    artifacts.save_plain_json(RESULT, {"machine": machine, "rows": rows})
    artifacts.save_bytes(RESULT.with_suffix(".md"), page(machine, rows).encode())
    print(page(machine, rows))


if __name__ == "__main__":
    typer.run(main)
