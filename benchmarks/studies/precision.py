"""Compares matrix products in bfloat16, as on recent GPUs, with float32: accuracy and time.

    python -m benchmarks.studies.precision                   # the embedded default
    python -m benchmarks.studies.precision IMAGES WEIGHTS    # and benchmarks.studies.cifar100_vit_tiny

Both precisions run with every seed on this machine's device: the stages of the pipeline one after the other in a clone
of the last commit, measured on test images. Writes reports/benchmarks/precision.{md,json}.
"""

import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.speed.ratios import machine_name
from benchmarks.studies.cifar100_vit_tiny import NUM_TASKS, params_of
from benchmarks.studies.schedule import run_stages
from harness import stage_order
from harness.clone import ROOT, clone, configure, run_dvc, run_plan
from pipeline.machine.device import PRECISIONS
from pipeline.params import read_mapping
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/precision.json"


def rows(name: str, title: str, best: str, changes: Mapping[str, Any], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Accuracies in percent over the seeds, of C-LN and with the classifier of a preset, and their change by bf16."""
    folder = clone(name)
    preset = read_mapping(ROOT / f"presets/{best}.yaml")
    default = read_mapping(ROOT / "params.yaml")
    plain = {key: default[key] for key in preset} | dict(changes)
    found: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    for seed in seeds:
        configure(folder, **plain, seed=seed)
        run_plan(folder, NUM_TASKS)
        run_dvc(folder, "repro", "split")
        for precision, of_seeds in found.items():
            os.environ["PRECISION"] = precision
            configure(folder, **plain)
            with chdir(folder):
                stage_order.run_stages(NUM_TASKS, {"queries"})
            of_seeds.append(run_stages(folder, NUM_TASKS, preset))
            print(title, seed, precision, of_seeds[-1], flush=True)
    single, half = found["fp32"], found["bf16"]
    ratio = statistics.median(other["seconds"] / one["seconds"] for one, other in zip(single, half, strict=True))
    for key, classifier in (("accuracy", "C-LN"), ("best", best)):
        differences = [other[key] - one[key] for one, other in zip(single, half, strict=True)]
        of = {"fp32": [one[key] for one in single], "bf16": [one[key] for one in half], "difference": differences}
        yield {
            "images": title,
            "classifier": classifier,
            **{f"{what}_mean": round(statistics.fmean(values), 2) for what, values in of.items()},
            **{f"{what}_std": round(statistics.stdev(values), 2) for what, values in of.items()},
            "stage_one_ratio": round(ratio, 3),
        }


def page(report: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    cells = [
        (
            row["images"],
            row["classifier"],
            f"{row['fp32_mean']:.1f} ± {row['fp32_std']:.1f}",
            f"{row['bf16_mean']:.1f} ± {row['bf16_std']:.1f}",
            f"{row['difference_mean']:+.2f} ± {row['difference_std']:.2f}",
            f"{row['stage_one_ratio']:.2f}",
        )
        for row in report["rows"]
    ]
    header = ("images", "classifier", "float32 (%)", "bfloat16 (%)", "difference, seed by seed", "time of stage one")
    return f"""\
# bfloat16

Average accuracy on the test images after {NUM_TASKS} tasks, mean and standard deviation over seeds \
{", ".join(map(str, report["seeds"]))}, with matrix products
in float32 and in bfloat16 (`PRECISION=bf16`; tuned parameters, their gradients and features are float32 in both), and
the time of stage one as a share of that in float32. {report["machine"]}.

{table(header, cells)}
"""


def main(
    images: Annotated[Path | None, typer.Argument(help="Folder train/CLASS/*, test/CLASS/*.")] = None,
    weights: Annotated[Path | None, typer.Argument(help="Weights of vit_tiny_patch16_224.")] = None,
    seeds: Annotated[str, typer.Option(help="Two or more, separated by commas.")] = "0,1,2",
) -> None:
    """Run both precisions with every seed and write the table."""
    numbers = [int(seed) for seed in seeds.split(",")]
    found = list(rows("precision", "glyphs, glyph_vit", "best_domains", {}, numbers))
    if images and weights:
        found += rows(
            "precision_cifar100", "CIFAR-100, ViT-Ti/16 at 96 px", "best", params_of(images, weights), numbers
        )
    report = {"rows": found, "seeds": numbers, "machine": machine_name()}
    artifacts.save_plain_json(RESULT, report)
    artifacts.save_bytes(RESULT.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
