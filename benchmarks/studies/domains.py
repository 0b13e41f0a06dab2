"""Domain-incremental learning on the embedded characters: the rows of sweeps/domains.yaml, domain by domain.

    python -m benchmarks.studies.domains

Preset glyphs_domains: the same ten characters in ten renditions, one rendition per task. Every row of the sweep runs
with every seed, measured on test images, in a clone of the last commit: DVC runs stage one, which rows share, and the
stages after it follow in this process. An interrupted benchmark continues with what is missing. Nothing is chosen here:
every value is that of its preset. Writes reports/benchmarks/domains.{md,json}.

    python -m benchmarks.studies.domains --only "joint LayerNorm tuning" --folder other

runs some rows alone, in a clone of another name, such as beside others; --no-run writes the page from what is there.
"""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.speed.ratios import machine_name
from harness.clone import ROOT, clone, configure, run_dvc, run_plan
from harness.stage_order import AFTER_LAYERNORMS, run_stages
from pipeline.experiments.comparison import paired_difference
from pipeline.experiments.queue import code_digest
from pipeline.params import read_mapping
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/domains.json"
GRID = ROOT / "sweeps/domains.yaml"
PRESET = ROOT / "presets/glyphs_domains.yaml"
KEPT = ROOT / ".scratch/domains_runs"

Run = dict[str, Any]
Results = dict[str, dict[int, Run]]  # variant -> seed -> what it found


def result_of(folder: Path, params: Mapping[str, Any], num_tasks: int, *, may_run: bool) -> Run | None:
    """The result with these parameters: kept from before, or of a run now; None if it is missing and may not run."""
    configure(folder, **params)
    file = KEPT / f"{key(folder)}.json"
    if not file.exists():
        if not may_run:
            return None
        run_dvc(folder, "repro", f"stage_one@t{num_tasks}")
        with chdir(folder):
            run_stages(num_tasks, AFTER_LAYERNORMS)
            evaluation = artifacts.load_json(artifacts.EVALUATION)
        KEPT.mkdir(parents=True, exist_ok=True)
        wanted = ("metrics", "matrices", "selection", "key_similarity", "domains")
        file.write_text(json.dumps({name: evaluation[name] for name in wanted}))
    found: Run = json.loads(file.read_text())
    return found


def plain() -> dict[str, Any]:
    """The values of the preset, and those of params.yaml for what the variants change."""
    default = read_mapping(ROOT / "params.yaml")
    changed = {key for changes in read_mapping(GRID)["variants"].values() for key in changes or {}}
    preset = {name: value for name, value in read_mapping(PRESET).items() if name != "num_tasks"}
    return {name: default[name] for name in changed} | preset


def key(folder: Path) -> str:
    """Stands for the parameters of a run and for the code of its stages."""
    with chdir(folder):
        params = read_mapping(Path("params.yaml"))
        text = json.dumps([params, code_digest(params)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def headline(results: Results, reference: str) -> list[Run]:
    """One row per variant: means and deviations over the seeds in percent, and the difference from the reference."""
    accuracy = {
        name: {seed: 100 * run["metrics"]["average_accuracy"] for seed, run in of.items()}
        for name, of in results.items()
    }
    rows = []
    for name, of in results.items():
        row: Run = {"name": name, "seeds": list(of), "difference": None}
        if name != reference:
            row["difference"] = paired_difference(accuracy[name], accuracy[reference])
        for metric in ("average_accuracy", "c_ln_lda_accuracy", "forgetting", "selection_accuracy"):
            row[metric] = spread([100 * run["metrics"][metric] for run in of.values() if metric in run["metrics"]])
        diagonals = [[row[-1] for row in run["matrices"]["c_ln"]] for run in of.values()]
        row["when_learned"] = spread([100 * statistics.fmean(diagonal) for diagonal in diagonals])
        row["passes"] = next(iter(of.values()))["metrics"]["passes_at_inference"]
        rows.append(row)
    return rows


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and deviation over the seeds; None without values."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def by_domain(results: Results) -> dict[str, Run]:
    """Of each domain, means over the seeds in percent: the final accuracy of each variant, and right selections."""
    found: dict[str, Run] = {}
    for domain in sorted(next(iter(next(iter(results.values())).values()))["domains"]):
        final, right = {}, {}
        for name, of in results.items():
            places = [(run, run["domains"].index(domain)) for run in of.values()]
            final[name] = statistics.fmean(100 * run["matrices"]["c_ln"][-1][t] for run, t in places)
            if places[0][0]["selection"] is not None:
                shares = [100 * run["selection"][t][t] / sum(run["selection"][t]) for run, t in places]
                right[name] = statistics.fmean(shares)
        found[domain] = {"accuracy": final, "selected_right": right}
    return found


def neighbours(run: Run) -> dict[str, tuple[str, float]]:
    """The domain whose key is the most similar to a domain's own, and the cosine of the two."""
    found = {}
    for t, (domain, row) in enumerate(zip(run["domains"], run["key_similarity"], strict=True)):
        nearest = max((u for u in range(len(row)) if u != t), key=lambda u: row[u])
        found[domain] = (run["domains"][nearest], row[nearest])
    return found


def shown(value: Mapping[str, float] | None) -> str:
    """Mean and deviation as text."""
    return "" if value is None else f"{value['mean']:.1f} ± {value['std']:.1f}"


def gap(value: Mapping[str, Any] | None) -> str:
    """A paired difference as text."""
    if value is None:
        return ""
    interval = "" if value["low"] is None else f" [{value['low']:+.1f}, {value['high']:+.1f}]"
    return f"{value['mean']:+.1f}{interval}"


def page(report: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    names = [row["name"] for row in report["rows"]]
    choosing = [name for name in names if name in next(iter(report["domains"].values()))["selected_right"]]
    rows = [
        (
            row["name"],
            shown(row["average_accuracy"]),
            gap(row["difference"]),
            shown(row["c_ln_lda_accuracy"]),
            shown(row["when_learned"]),
            shown(row["forgetting"]),
            shown(row["selection_accuracy"]),
            f"{row['passes']:g}",
            ", ".join(map(str, row["seeds"])),
        )
        for row in report["rows"]
    ]
    accuracies = [
        (domain, *(f"{of['accuracy'][name]:.1f}" for name in names)) for domain, of in report["domains"].items()
    ]
    selections = [
        (
            domain,
            *(f"{of['selected_right'][name]:.1f}" for name in choosing),
            "{} ({:.2f})".format(*report["neighbours"][domain]) if report["neighbours"] else "",
        )
        for domain, of in report["domains"].items()
    ]
    header = ("row", "average accuracy (%)", "difference", "with a linear discriminant", "when learned", "forgetting")
    return f"""\
# Domain-incremental learning on the embedded characters

Preset `glyphs_domains`: the same ten characters in ten renditions, one rendition per task, in an order by seed. Mean ±
standard deviation over the seeds, on test images. Rows are those of `sweeps/domains.yaml`; every value is that of its
preset, and nothing was chosen on these images. Difference: from {report["reference"]}, seed by seed, with its 95 %
confidence interval. With a linear discriminant: of the same features, in place of the head. When learned: the mean of
each domain's accuracy right after its task. {report["machine"]}.

{table((*header, "right domain (%)", "passes", "seeds"), rows)}

## Accuracy per domain

After the last step (%), mean over the seeds.

{table(("domain", *names), accuracies)}

## Selection per domain

Test images that are taken for their own domain (%), and the domain whose key is the most similar (cosine of the keys:
the mean directions of the frozen backbone's output).

{table(("domain", *choosing, "most similar"), selections)}
"""


def main(  # noqa: PLR0913, PLR0917
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    num_tasks: Annotated[int, typer.Option(help="Domains to learn.")] = 10,
    only: Annotated[str, typer.Option(help="Rows of the sweep, separated by commas; all if empty.")] = "",
    run: Annotated[bool, typer.Option(help="Run what is missing.")] = True,  # noqa: FBT002
    folder: Annotated[str, typer.Option(help="Name of the clone.")] = "domains",
    out: Annotated[Path, typer.Option(help="The numbers; the page lies beside them.")] = RESULT,
) -> None:
    """Run every row with every seed and write the page."""
    grid = read_mapping(GRID)
    variants = {
        name: changes or {} for name, changes in grid["variants"].items() if not only or name in only.split(",")
    }
    place = clone(folder)
    run_plan(place, num_tasks)
    results: Results = {}
    for seed in map(int, seeds.split(",")):
        for name, changes in variants.items():
            found = result_of(place, {**plain(), **changes, "seed": seed}, num_tasks, may_run=run)
            if found is not None:
                results.setdefault(name, {})[seed] = found
                print(seed, name, found["metrics"]["average_accuracy"], flush=True)
    results = {name: results[name] for name in variants if name in results}
    reference = grid["reference"] if grid["reference"] in results else next(iter(results))
    first = next(iter(results[reference].values()))
    report = {
        "rows": headline(results, reference),
        "domains": by_domain(results),
        "neighbours": neighbours(first) if first["key_similarity"] else {},
        "reference": reference,
        "matrices": {name: {seed: run["matrices"]["c_ln"] for seed, run in of.items()} for name, of in results.items()},
        "machine": machine_name(),
    }
    artifacts.save_plain_json(out, report)
    artifacts.save_bytes(out.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
