"""The page of benchmarks.studies.beyond: means over seeds, best first, as a table in Markdown."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.studies.over_seeds import mean_and_std
from pipeline.report.text import table

Row = tuple[str, str, str, str]  # features, selector, classifier, correction


def summarise(runs: Mapping[int, Mapping[Row, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Mean over the seeds, best first."""
    rows = []
    for key in next(iter(runs.values())):
        values = [results[key] for results in runs.values()]
        mean = {name: round(statistics.fmean(value[name] for value in values), 2) for name in values[0]}
        accuracy = [value["average_accuracy"] for value in values]
        rows.append(
            dict(zip(("features", "selector", "classifier", "correction"), key, strict=True))
            | {
                "average_accuracy_mean": mean["average_accuracy"],
                "average_accuracy_std": round(mean_and_std(accuracy)[1], 2),
                "average_accuracies": [round(value, 2) for value in accuracy],
                "selection_accuracy": mean.get("selection_accuracy"),
                "passes": mean["passes"],
                "bytes_per_task": round(mean["bytes_per_task"]),
                "seeds": list(runs),
            }
        )
    return sorted(rows, key=lambda row: -row["average_accuracy_mean"])


def page(report: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    rows = [
        (
            row["features"],
            " + ".join(row[name] for name in ("selector", "classifier", "correction") if row[name] != "none"),
            f"{row['average_accuracy_mean']:.1f} ± {row['average_accuracy_std']:.1f}",
            "" if row["selection_accuracy"] is None else f"{row['selection_accuracy']:.1f}",
            f"{row['passes']:.2f}",
            f"{row['bytes_per_task']:,}",
        )
        for row in report["rows"]
    ]
    header = ("features", "configuration", "average accuracy (%)", "right LayerNorms (%)", "passes", "bytes per task")
    return f"""\
# Selectors, classifiers and corrections: {report["title"]}

{report["num_tasks"]} tasks, measured on {report["evaluate_on"]} images, seeds
{", ".join(map(str, report["seeds"]))}; all rows use the same LayerNorms. Features: the model's own output (`cls`);
also the patch mean (`cls_patch`); the one or both of its last four blocks (`cls_4`, `last_4`). One pass gives them all.
The paper's configuration is cls, key + softmax. `oracle` is told the task. `latest` and `average` keep one set of
LayerNorms for all tasks; `frozen` tunes nothing. `recomputed` is `average` with the statistics of all images under the
last mean, so it needs the old images: a bound. No other row keeps a sample of an old task. Passes: at inference.
{report["machine"]}

{table(header, rows)}
"""
