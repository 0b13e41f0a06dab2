"""Domain-incremental learning on the embedded characters: the rows of sweeps/domains.yaml, domain by domain.

    python -m benchmarks.studies.domains

Preset glyphs_domains: the same ten characters in ten renditions, one rendition per task. Every row of the sweep runs
with every seed: the stages of the pipeline one after the other in a clone of the last commit, measured on test images.
Rows that differ only after stage one share it. An interrupted benchmark continues with the runs that are missing.
Nothing is chosen here: every value is that of its preset. Writes reports/benchmarks/domains.{md,json}.
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
from harness.clone import ROOT, clone, configure, run_plan
from harness.stage_order import AFTER_LAYERNORMS, LEARNING, run_stage, run_stages
from pipeline.experiments.comparison import paired_difference
from pipeline.experiments.queue import code_digest
from pipeline.params import read_mapping
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/domains.json"
GRID = ROOT / "sweeps/domains.yaml"
PRESET = ROOT / "presets/glyphs_domains.yaml"
KEPT = ROOT / ".scratch/domains_runs"
_AFTER_STAGE_ONE = {"selection", "selector", "classifier"}  # what a row may change without another stage one

Run = dict[str, Any]


def runs_of(
    folder: Path, base: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]], num_tasks: int
) -> dict[str, Run]:
    """Every variant with the seed of `base`. Those that may share the stage one of the first come first."""
    found: dict[str, Run] = {}
    shared = False  # whether the folder holds the stage one that the variants share
    for name in sorted(variants, key=lambda name: not variants[name].keys() <= _AFTER_STAGE_ONE):
        configure(folder, **{**base, **variants[name]})
        file = KEPT / f"{key(folder)}.json"
        if file.exists():
            found[name] = json.loads(file.read_text())
            continue
        is_shared = variants[name].keys() <= _AFTER_STAGE_ONE
        with chdir(folder):
            found[name] = run_one(num_tasks, only_after_stage_one=is_shared and shared)
        shared = is_shared
        KEPT.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found[name]))
        print(base["seed"], name, found[name]["metrics"]["average_accuracy"], flush=True)
    return {name: found[name] for name in variants}


def run_one(num_tasks: int, *, only_after_stage_one: bool) -> Run:
    """Run the stages in the working folder. Returns what is needed of the result."""
    run_stage("method")
    run_stage("code")
    if not only_after_stage_one:
        run_stage("download")
        run_stage("split")
    run_stages(num_tasks, AFTER_LAYERNORMS if only_after_stage_one else LEARNING)
    evaluation = artifacts.load_json(artifacts.EVALUATION)
    return {name: evaluation[name] for name in ("metrics", "matrices", "selection", "key_similarity", "domains")}


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


def headline(variants: Mapping[str, Any], results: Mapping[int, Mapping[str, Run]], reference: str) -> list[Run]:
    """One row per variant: means and deviations over the seeds in percent, and the difference from the reference."""
    rows = []
    for name in variants:
        of = {seed: results[seed][name] for seed in results}
        accuracy = {seed: 100 * run["metrics"]["average_accuracy"] for seed, run in of.items()}
        ours = {seed: 100 * results[seed][reference]["metrics"]["average_accuracy"] for seed in results}
        row = {"name": name, "difference": paired_difference(accuracy, ours) if name != reference else None}
        for metric in ("average_accuracy", "c_ln_lda_accuracy", "forgetting", "selection_accuracy"):
            values = [100 * run["metrics"][metric] for run in of.values() if metric in run["metrics"]]
            row[metric] = spread(values) if values else None
        learned = [
            statistics.fmean(100 * run["matrices"]["c_ln"][t][t] for t in range(len(run["domains"])))
            for run in of.values()
        ]
        row["when_learned"] = spread(learned)
        row["passes"] = next(iter(of.values()))["metrics"]["passes_at_inference"]
        rows.append(row)
    return rows


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and deviation over the seeds."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def by_domain(variants: Mapping[str, Any], results: Mapping[int, Mapping[str, Run]]) -> dict[str, Run]:
    """Of each domain, means over the seeds in percent: the final accuracy of each variant, and images selected right."""
    found: dict[str, Run] = {}
    for domain in sorted(next(iter(results.values()))[next(iter(variants))]["domains"]):
        final, right = {}, {}
        for name in variants:
            places = [(run, run["domains"].index(domain)) for run in (results[seed][name] for seed in results)]
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
            f"{report['neighbours'][domain][0]} ({report['neighbours'][domain][1]:.2f})",
        )
        for domain, of in report["domains"].items()
    ]
    header = ("row", "average accuracy (%)", "difference", "with a linear discriminant", "when learned", "forgetting")
    return f"""\
# Domain-incremental learning on the embedded characters

Preset `glyphs_domains`: the same ten characters in ten renditions, one rendition per task, in an order by seed. Test
images, seeds {", ".join(map(str, report["seeds"]))}: mean ± standard deviation. Rows are those of `sweeps/domains.yaml`;
every value is that of its preset, and nothing was chosen on these images. Difference: from {report["reference"]}, seed by
seed, with its 95 % confidence interval. With a linear discriminant: of the same features, in place of the head. When
learned: the mean of each domain's accuracy right after its task. {report["machine"]}.

{table((*header, "right domain (%)", "passes"), rows)}

## Accuracy per domain

After the last step (%), mean over the seeds.

{table(("domain", *names), accuracies)}

## Selection per domain

Test images that are taken for their own domain (%), and the domain whose key is the most similar (cosine of the keys:
the mean directions of the frozen backbone's output).

{table(("domain", *choosing, "most similar"), selections)}
"""


def main(
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    num_tasks: Annotated[int, typer.Option(help="Domains to learn.")] = 10,
    most_epochs: Annotated[int, typer.Option(help="At most so many epochs of stage one; to try this script.")] = 10**6,
    only: Annotated[str, typer.Option(help="Rows of the sweep, separated by commas; all if empty.")] = "",
    out: Annotated[Path, typer.Option(help="The numbers; the page lies beside them.")] = RESULT,
) -> None:
    """Run every row with every seed and write the page."""
    grid = read_mapping(GRID)
    variants = {
        name: changes or {} for name, changes in grid["variants"].items() if not only or name in only.split(",")
    }
    reference = grid["reference"] if grid["reference"] in variants else next(iter(variants))
    folder = clone(f"domains_{seeds}_{len(variants)}_{next(iter(variants))}".replace(" ", "_"))
    run_plan(folder, num_tasks)
    numbers = [int(seed) for seed in seeds.split(",")]
    base = plain() | {"epochs": min(most_epochs, read_mapping(PRESET)["epochs"])}
    results = {seed: runs_of(folder, base | {"seed": seed}, variants, num_tasks) for seed in numbers}
    report = {
        "rows": headline(variants, results, reference),
        "domains": by_domain(variants, results),
        "neighbours": neighbours(results[numbers[0]][reference]),
        "reference": reference,
        "seeds": numbers,
        "runs": {
            str(seed): {name: run["matrices"]["c_ln"] for name, run in of.items()} for seed, of in results.items()
        },
        "machine": machine_name(),
    }
    artifacts.save_plain_json(out, report)
    artifacts.save_bytes(out.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
