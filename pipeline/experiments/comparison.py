"""Compares variants over seeds: the numbers of reports/comparison.json, and its page."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from pipeline.evaluation.methods import ACCURACIES, BASELINES, METHODS, verdict
from pipeline.experiments.queue import Experiment
from pipeline.report.text import code, escape, table

_COUNTS = (
    "passes_per_image",
    "passes_at_inference",
    "gflop_at_inference",
    "task_parameters",
    "bytes_per_task",
    "training_images",
    "test_images",
)
_HEADLINE = ("average_accuracy", "c_ln_lda_accuracy", "forgetting", "selection_accuracy")
_CONFIDENCE = 0.95


def mean_and_deviation(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (None for a single value) of a metric over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any] | None:
    """Mean difference from the reference over common seeds, with Student's confidence interval: low, high.

    None without a common seed; a single common seed gives a difference without an interval.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = [values[seed] - reference[seed] for seed in seeds]
    mean, count = statistics.fmean(differences), len(seeds)
    if count == 1:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def beside(experiments: Mapping[int, Experiment]) -> list[dict[str, Any]]:
    """The other methods that the reference's runs measured: one row per method, with its difference paired by seed."""
    ours = {seed: experiment.metrics["average_accuracy"] for seed, experiment in experiments.items()}
    rows = []
    for row in ("c_ln_lda", *BASELINES):
        values = {
            seed: experiment.metrics[ACCURACIES[row]]
            for seed, experiment in experiments.items()
            if ACCURACIES[row] in experiment.metrics
        }
        if values:
            accuracy = mean_and_deviation([values[seed] for seed in sorted(values)])
            rows.append({"row": row, "accuracy": accuracy, "difference": paired_difference(values, ours)})
    return rows


def rows(
    results: Mapping[str, Mapping[int, Experiment]],
    changes: Mapping[str, Mapping[str, object]],
    reference: str,
    work: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One row per variant that has finished for at least one seed.

    results: the experiment of each variant and seed; work: what the log of stages says about each experiment.
    """
    accuracy = {
        variant: {seed: experiment.metrics["average_accuracy"] for seed, experiment in by_seed.items()}
        for variant, by_seed in results.items()
    }
    table_rows = []
    for variant, by_seed in results.items():
        if not by_seed:
            continue
        experiments = [by_seed[seed] for seed in sorted(by_seed)]
        seconds = [work[e.name]["seconds"] for e in experiments if e.name in work]
        table_rows.append(
            {
                "name": variant,
                "changes": dict(changes[variant]),
                "seeds": sorted(by_seed),
                "metrics": {
                    metric: mean_and_deviation([e.metrics[metric] for e in experiments if metric in e.metrics])
                    for metric in {name: None for e in experiments for name in e.metrics}
                },
                "difference": paired_difference(accuracy[variant], accuracy.get(reference, {})),
                "over_tasks": [
                    mean_and_deviation(values) for values in zip(*(e.over_tasks for e in experiments), strict=True)
                ],
                "seconds": statistics.fmean(seconds) if seconds else None,
                "details": [
                    {
                        "experiment": e.name,
                        "revision": e.revision,
                        "environment": work.get(e.name, {}).get("environment"),
                    }
                    for e in experiments
                ],
            }
        )
    return table_rows


def page(comparison: Mapping[str, Any]) -> str:
    """The comparison in Markdown."""
    results, params = comparison["rows"], comparison["params"]
    names = {metric: None for row in results for metric in row["metrics"]}  # each once, in order
    others = [metric for metric in names if metric not in (*_HEADLINE, *_COUNTS)]
    environments = sorted({str(d["environment"]) for row in results for d in row["details"] if d["environment"]})
    seeds = ", ".join(map(str, comparison["seeds"]))
    published = [tuple(row.values()) for row in comparison["published"]["rows"]]
    return f"""\
# Comparison on {params["dataset"]}

{params["num_tasks"]} tasks, backbone `{params["backbone"]}`, measured on {params["evaluate_on"]} images; seeds {seeds}.
Mean ± standard deviation over the seeds; accuracies in percent, forgetting in points. Difference: from
{escape(comparison["reference"])}, seed by seed, with its 95 % confidence interval. Seconds: compute time of the stages
each experiment ran, excluding process start-up; stages shared between variants come from DVC's cache and are not
counted. With a linear discriminant: accuracy of the same features with a linear discriminant in place of the head. A
cell is empty if a number would mean nothing: if one model serves all tasks, no task is selected. No row is a bound for
another.

{comparison.get("seed_moves", "")}

{table(_HEADLINE_COLUMNS, [_headline(row) for row in results])}

{_baselines(comparison)}![Average accuracy over the tasks](comparison/over_tasks.png)

![Average accuracy against tuned parameters](comparison/parameters.png)

## What each variant changes

{table(("variant", "parameters"), [(escape(row["name"]), _changes(row)) for row in results])}

## The other metrics

{table(("variant", *(name.replace("_", " ") for name in others)), [_others(row, others) for row in results])}

## Published numbers, not measured here

{comparison["published"]["source"]}. Backbones, data and code differ: these numbers are context, not a target.

{table(("method", "CIFAR-100", "ImageNet-R", "backbone"), published)}

## Provenance

Revisions of the experiments are in comparison.json. {" / ".join(environments) or "Their environment was not recorded."}
"""


_HEADLINE_COLUMNS = (
    "variant",
    "average accuracy",
    "difference",
    "with a linear discriminant",
    "forgetting",
    "right LayerNorms",
    "parameters per task",
    "passes",
    "GFLOP per image",
    "seconds",
)


def _headline(row: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = row["metrics"]
    return (
        escape(row["name"]),
        _spread(metrics["average_accuracy"]),
        _gap(row["difference"]),
        _spread(metrics.get("c_ln_lda_accuracy")),
        _spread(metrics.get("forgetting")),
        _spread(metrics.get("selection_accuracy")),
        f"{metrics['task_parameters']['mean']:,.0f}",
        f"{metrics['passes_at_inference']['mean']:.3g}",
        f"{metrics['gflop_at_inference']['mean']:.3g}",
        "" if row["seconds"] is None else f"{row['seconds']:.0f}",
    )


def _baselines(comparison: Mapping[str, Any]) -> str:
    """C-LN and what the same runs measured with another head or without tuning; empty without the reference."""
    rows = comparison["beside"]
    if not rows:
        return ""
    reference = next(row for row in comparison["rows"] if row["name"] == comparison["reference"])
    means = {row["row"]: row["accuracy"]["mean"] for row in rows} | {
        "c_ln": reference["metrics"]["average_accuracy"]["mean"]
    }
    cells = [(METHODS[row["row"]], _spread(row["accuracy"]), _gap(row["difference"])) for row in rows]
    name = f"From the runs of {escape(comparison['reference'])}, called C-LN here:"
    return f"""\
{name}

{table(("method", "average accuracy", "difference"), cells)}

**{verdict(means)}**

"""


def _gap(difference: Mapping[str, Any] | None) -> str:
    """A difference in points, with its interval if it has one."""
    if not difference:
        return ""
    if difference["low"] is None:
        return f"{100 * difference['mean']:+.1f}"
    return f"{100 * difference['mean']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"


def _others(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return (escape(row["name"]), *(_spread(row["metrics"].get(name)) for name in names))


def _changes(row: Mapping[str, Any]) -> str:
    return ", ".join(code(f"{name}: {value}") for name, value in row["changes"].items()) or "none"


def _spread(metric: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation of a fraction, in percent; empty if the metric is absent."""
    if metric is None:
        return ""
    mean = f"{100 * metric['mean']:.1f}"
    return mean if metric["std"] is None else f"{mean} ± {100 * metric['std']:.1f}"
