"""Domain-incremental learning on the embedded characters: sweeps/domains.yaml, compared domain by domain.

    python -m benchmarks.studies.domains

Preset glyphs_domains: the same ten characters in ten renditions, one rendition per task. The sweep runs through DVC's
queue in a clone of the last commit, on test images. An interrupted one goes on where it stopped. Nothing is chosen
here: every value is that of its preset. Writes reports/benchmarks/domains.{md,json}.

    python -m benchmarks.studies.domains --no-run

writes the page from the experiments that have finished in that clone.
"""

import csv
import io
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.speed.ratios import machine_name
from harness.clone import ROOT, clone, run
from pipeline.data.sets.glyph_images import RENDITIONS
from pipeline.evaluation.metrics import square
from pipeline.report.text import table
from pipeline.runtime.git import git
from pipeline.seeds import rank
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/domains.json"
GRID = Path("sweeps/domains.yaml")
DOMAINS = sorted(rendition.__name__ for rendition in RENDITIONS)

Run = dict[str, Any]  # accuracy when learned, accuracy and shares selected in the end, of each domain


def order_of(seed: int) -> list[str]:
    """The domains of the tasks, as the stage split orders them."""
    return sorted(DOMAINS, key=lambda name: rank(seed, "order of domains", name))


def read_run(revision: str, seed: int) -> Run:
    """What a finished experiment found of each domain, from the tables in its commit."""

    def rows(path: Path) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(git("show", f"{revision}:./{path}"))))

    domains = order_of(seed)
    triangle: list[list[float]] = [[] for _ in domains]
    for cell in rows(artifacts.ACCURACY_MATRIX):
        triangle[int(cell["after_task"]) - 1].append(float(cell["accuracy"]))
    matrix = square(triangle)
    chosen = {
        (domains[int(cell["true_task"]) - 1], domains[int(cell["selected_task"]) - 1]): float(cell["share"])
        for cell in rows(artifacts.SELECTION)
        if cell["selected_task"] != "none"
    }
    return {
        "when_learned": dict(zip(domains, matrix.diagonal().tolist(), strict=True)),
        "in_the_end": dict(zip(domains, matrix[-1].tolist(), strict=True)),
        "selected": {own: {other: chosen[own, other] for other in domains} for own in domains} if chosen else None,
    }


def shown(value: Mapping[str, Any] | None) -> str:
    """Mean and deviation in percent, as text."""
    if value is None:
        return ""
    return f"{100 * value['mean']:.1f}" + ("" if value["std"] is None else f" ± {100 * value['std']:.1f}")


def gap(value: Mapping[str, Any] | None) -> str:
    """A paired difference in points, as text; empty without a common seed."""
    if value is None:
        return ""
    interval = "" if value["low"] is None else f" [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"
    return f"{100 * value['mean']:+.1f}{interval}"


def mean(runs: Sequence[Run], what: str, domain: str) -> float:
    """Over the seeds, in percent."""
    return 100 * statistics.fmean(run[what][domain] for run in runs)


def selections(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Of each domain, how many images are taken for it, and for which other domain most, in percent."""
    found = []
    for own in DOMAINS:
        share = {other: 100 * statistics.fmean(run["selected"][own][other] for run in runs) for other in DOMAINS}
        other = max((name for name in DOMAINS if name != own), key=lambda name: share[name])
        found.append((f"{share[own]:.1f}", f"{other} {share[other]:.1f}"))
    return found


def rows_select(runs: Sequence[Run]) -> bool:
    """Whether a variant chose domains, and was not given them."""
    return bool(runs[0]["selected"]) and any(
        mean([run["selected"]], name, name) < 100 for run in runs for name in DOMAINS
    )


def headline(row: Mapping[str, Any], runs: Sequence[Run], *, is_reference: bool) -> tuple[str, ...]:
    """A row of the first table."""
    metrics = row["metrics"]
    learned = [mean([run], "when_learned", domain) for run in runs for domain in DOMAINS]
    return (
        row["name"],
        shown(metrics["average_accuracy"]),
        "" if is_reference else gap(row["difference"]),
        shown(metrics.get("c_ln_lda_accuracy")),
        f"{statistics.fmean(learned):.1f}",
        shown(metrics.get("forgetting")),
        shown(metrics.get("selection_accuracy")),
        f"{metrics['passes_at_inference']['mean']:g}",
        ", ".join(map(str, row["seeds"])),
    )


def page(report: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    rows, runs = report["rows"], report["runs"]
    names = [row["name"] for row in rows]
    header = ("row", "average accuracy (%)", "difference", "with a linear discriminant", "when learned", "forgetting")
    headlines = [headline(row, runs[row["name"]], is_reference=row["name"] == report["reference"]) for row in rows]
    accuracies = [(domain, *(f"{mean(runs[name], 'in_the_end', domain):.1f}" for name in names)) for domain in DOMAINS]
    choosing = [name for name in names if rows_select(runs[name])]
    chosen = zip(DOMAINS, *(selections(runs[name]) for name in choosing), strict=True)
    selected = [(domain, *(text for of_variant in of for text in of_variant)) for domain, *of in chosen]
    columns = [text for name in choosing for text in (f"{name}: right (%)", "most often instead (%)")]
    return f"""\
# Domain-incremental learning on the embedded characters

Preset `glyphs_domains`: the same ten characters in ten renditions, one rendition per task, in an order by seed. Mean ±
standard deviation over the seeds, on test images. Rows are those of `sweeps/domains.yaml`; every value is that of its
preset, and nothing was chosen on these images. Difference: from {report["reference"]}, seed by seed, with its 95 %
confidence interval. With a linear discriminant: of the same features, in place of the head. When learned: the mean of
each domain's accuracy right after its task. {report["machine"]}.

{table((*header, "right domain (%)", "passes", "seeds"), headlines)}

## Accuracy per domain

After the last step (%), mean over the seeds.

{table(("domain", *names), accuracies)}

## Selection per domain

For which domain the test images of each are taken after the last step, mean over the seeds.

{table(("domain", *columns), selected)}
"""


def main(
    *,
    is_run: Annotated[bool, typer.Option("--run/--no-run", help="Run what is missing.")] = True,
    out: Annotated[Path, typer.Option(help="The numbers; the page lies beside them.")] = RESULT,
) -> None:
    """Run the sweep and write the page."""
    folder = clone("domains") if is_run else ROOT / ".scratch/domains"
    if is_run:
        run([sys.executable, "-m", "pipeline", "preset", "glyphs_domains", "--yes"], folder)
        run([sys.executable, "-m", "pipeline.dvc", "repro", "evaluate"], folder)  # a sweep needs a lock that is cached
        run([sys.executable, "-m", "pipeline", "sweep", str(GRID), "-j", "1"], folder)
    run([sys.executable, "-m", "pipeline", "compare", str(GRID)], folder)  # in the clone, whose code names experiments
    compared = json.loads((folder / artifacts.COMPARISON_JSON).read_text())
    with chdir(folder):
        runs = {
            row["name"]: [read_run(of["revision"], seed) for seed, of in zip(row["seeds"], row["details"], strict=True)]
            for row in compared["rows"]
        }
    report = {"rows": compared["rows"], "runs": runs, "reference": compared["reference"], "machine": machine_name()}
    artifacts.save_plain_json(out, report)
    artifacts.save_bytes(out.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
