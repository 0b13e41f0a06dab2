"""Domain-incremental learning on the embedded characters: sweeps/domains.yaml, compared domain by domain.

    python -m benchmarks.studies.domains

Preset glyphs_domains: the same ten characters in ten renditions, one rendition per task. First every row that could be
used (it neither knows a test image's domain nor keeps old images) runs with every seed on a held-out fifth of the
training images; the best of them is the chosen one. Then every row runs with every seed on the test images.

Results are kept in .scratch/domains_by_stage as long as parameters and code are the same: a second call continues.
Stages run in this process, and rows that tune the same LayerNorms share them. Writes
reports/benchmarks/domains.{md,json}.
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
from benchmarks.studies.kinds import Kept
from harness import plain_project
from harness.root import ROOT
from harness.stage_order import AFTER_LAYERNORMS, BEFORE_TASKS, run_stages
from pipeline.evaluation.metrics import square
from pipeline.experiments import comparison
from pipeline.experiments.queue import Experiment, code_digest, read_sweep
from pipeline.params import read_mapping
from pipeline.report.text import table
from pipeline.runtime import code
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/domains.json"
GRID, PRESET = ROOT / "sweeps/domains.yaml", ROOT / "presets/glyphs_domains.yaml"
SCRATCH = ROOT / ".scratch/domains_by_stage"
TUNED = Path("tuned")  # a file in a folder in which stage one has finished
BEHIND = ("selection", "selector", "classifier")  # parameters that stage one and what precedes it do not read
PRECEDING = ("download", "split", "queries", "stage_one")

Params = dict[str, Any]
Run = dict[str, Any]  # metrics; accuracy when learned, accuracy and shares selected in the end, of each domain


def identity(*facts: object) -> str:
    """The same for the same facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def measure(params: Params) -> Run:
    """Run the stages of one row, but stage one only if no row has tuned the same LayerNorms yet."""
    tuned = {name: value for name, value in params.items() if name not in BEHIND}
    sources = code.read_sources()
    of_code = [code.digests(stage, sources, tuned) for stage in PRECEDING]
    folder = SCRATCH / f"{params['evaluate_on']} {params['seed']} {identity(tuned, of_code)}"
    num_tasks = params["num_tasks"]
    plain_project.make(folder, num_tasks, **{name: value for name, value in params.items() if name != "num_tasks"})
    with chdir(folder):
        if not TUNED.exists():
            run_stages(num_tasks, (*BEFORE_TASKS, "queries", "stage_one"))
            TUNED.touch()
        run_stages(num_tasks, ("method", "code", *AFTER_LAYERNORMS))
        return run_of(artifacts.load_json(artifacts.EVALUATION))


def run_of(evaluation: Mapping[str, Any]) -> Run:
    """What an evaluation found, and what it found of each domain."""
    domains, triangle = evaluation["domains"], evaluation["matrices"]["c_ln"]
    matrix, counts = square(triangle), evaluation["selection"]
    return {
        "metrics": evaluation["metrics"],
        "over_tasks": [statistics.fmean(row) for row in triangle],
        "when_learned": dict(zip(domains, matrix.diagonal().tolist(), strict=True)),
        "in_the_end": dict(zip(domains, matrix[-1].tolist(), strict=True)),
        "selected": counts
        and {
            own: {other: count / sum(row) for other, count in zip(domains, row, strict=True)}
            for own, row in zip(domains, counts, strict=True)
        },
    }


def measured(kept: Kept, variant: str, params: Params, of_code: str) -> Run:
    """The run of a row, from an earlier call if parameters and code are the same."""
    name = f"{params['evaluate_on']}, {variant}, seed {params['seed']}, {identity(params, of_code)}"
    if name not in kept:
        kept.keep(name, measure(params))
        accuracy = kept.values[name]["metrics"]["average_accuracy"]
        print(f"{name}: {100 * accuracy:.1f} %", flush=True)
    return kept.values[name]


def is_usable(changes: Mapping[str, object]) -> bool:
    """Whether a row neither knows the domain of a test image nor trains on old images."""
    return changes.get("selection") != "oracle" and changes.get("order") != "joint"


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


def domains_of(runs: Sequence[Run]) -> list[str]:
    """The domains that runs have in common, by name."""
    return sorted(runs[0]["in_the_end"])


def selections(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Of each domain, how many images are taken for it, and for which other domain most, in percent."""
    found, domains = [], domains_of(runs)
    for own in domains:
        share = {other: 100 * statistics.fmean(run["selected"][own][other] for run in runs) for other in domains}
        other = max((name for name in domains if name != own), key=lambda name: share[name])
        found.append((f"{share[own]:.1f}", f"{other} {share[other]:.1f}"))
    return found


def rows_select(runs: Sequence[Run]) -> bool:
    """Whether a variant chose domains, and was not given them."""
    return bool(runs[0]["selected"]) and any(
        mean([run["selected"]], name, name) < 100 for run in runs for name in domains_of(runs)
    )


def headline(row: Mapping[str, Any], runs: Sequence[Run], report: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the first table."""
    metrics = row["metrics"]
    learned = [mean([run], "when_learned", domain) for run in runs for domain in domains_of(runs)]
    return (
        f"**{row['name']}**" if row["name"] == report["chosen"] else row["name"],
        shown(report["held_out"].get(row["name"])),
        shown(metrics["average_accuracy"]),
        "" if row["name"] == report["reference"] else gap(row["difference"]),
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
    domains = domains_of(runs[names[0]])
    header = ("row", "held-out images (%)", "average accuracy (%)", "difference", "with a linear discriminant")
    costs = ("when learned", "forgetting", "right domain (%)", "passes", "seeds")
    headlines = [headline(row, runs[row["name"]], report) for row in rows]
    accuracies = [(domain, *(f"{mean(runs[name], 'in_the_end', domain):.1f}" for name in names)) for domain in domains]
    choosing = [name for name in names if rows_select(runs[name])]
    chosen = zip(domains, *(selections(runs[name]) for name in choosing), strict=True)
    selected = [(domain, *(text for of_variant in of for text in of_variant)) for domain, *of in chosen]
    columns = [text for name in choosing for text in (f"{name}: right (%)", "most often instead (%)")]
    return f"""\
# Domain-incremental learning on the embedded characters

Preset `glyphs_domains`: the same ten characters in ten renditions, one rendition per task, in an order by seed. Mean ±
standard deviation over the seeds. Rows are those of `sweeps/domains.yaml`; every other value is that of the preset.
**{report["chosen"]}** was chosen, by its average accuracy on a held-out fifth of the training images, among the rows
that neither know the domain of a test image nor train on old images; all other numbers are of test images.
Difference: from {report["reference"]}, seed by seed, with its 95 % confidence interval. With a linear discriminant: of
the same features, in place of the head. When learned: the mean of each domain's accuracy right after its task.
{report["machine"]}.

{table((*header, *costs), headlines)}

## Accuracy per domain

After the last step (%), mean over the seeds.

{table(("domain", *names), accuracies)}

## Selection per domain

For which domain the test images of each are taken after the last step, mean over the seeds.

{table(("domain", *columns), selected)}
"""


def main(
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    only: Annotated[str, typer.Option(help="Rows, separated by commas; all if empty.")] = "",
    most_epochs: Annotated[int, typer.Option(help="No row gets more epochs; to try this script.")] = 10**6,
    out: Annotated[Path, typer.Option(help="The numbers; the page lies beside them.")] = RESULT,
) -> None:
    """Choose a row on held-out images, measure every row on test images, and write the page."""
    sweep, kept = read_sweep(GRID), Kept(SCRATCH / "results.json")
    variants = {name: changes for name, changes in sweep.variants.items() if not only or name in only.split(",")}
    numbers = [int(text) for text in seeds.split(",")]
    base = {name: value for name, value in read_mapping(ROOT / "params.yaml").items() if name != "tasks"}
    base |= read_mapping(PRESET)
    base |= {name: min(base[name], most_epochs) for name in ("epochs", "classifier_epochs")}
    of_code = {name: code_digest(base | changes) for name, changes in variants.items()}

    def runs(names: Sequence[str], images: str) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = {name: [] for name in names}
        for seed in numbers:
            for name in names:
                params = base | variants[name] | {"seed": seed, "evaluate_on": images}
                found[name].append(measured(kept, name, params, of_code[name]))
        return found

    held_out = {
        name: comparison.mean_and_deviation([run["metrics"]["average_accuracy"] for run in of_seeds])
        for name, of_seeds in runs([name for name in variants if is_usable(variants[name])], "validation").items()
    }
    on_test = runs(list(variants), "test")
    experiments = {
        name: {
            seed: Experiment(name, "", run["metrics"], run["over_tasks"]) for seed, run in zip(numbers, of, strict=True)
        }
        for name, of in on_test.items()
    }
    report = {
        "rows": comparison.rows(experiments, variants, sweep.reference, {}),
        "held_out": held_out,
        "chosen": max(held_out, key=lambda name: held_out[name]["mean"]),
        "runs": on_test,
        "reference": sweep.reference,
        "machine": machine_name(),
    }
    artifacts.save_plain_json(out, report)
    artifacts.save_bytes(out.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
