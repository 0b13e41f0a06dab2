"""The comparison of variants: statistics against scipy, and a page that says what is missing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.parameters import PLAIN
from harness.root import ROOT
from pipeline.experiments import comparison
from pipeline.experiments.queue import Experiment, cells, read_sweep
from pipeline.params import read_mapping
from pipeline.report.figures import bands, scatter
from pipeline.runtime.work_log import LOG, logged, work_by_experiment

UNCHANGED: dict[str, dict[str, object]] = {"C-LN": {}, "other": {}, "one seed": {}, "not run": {}}
METRICS = ("average_accuracy", "forgetting", "selection_accuracy", "task_parameters", "passes_at_inference")


def experiment(name: str, accuracy: float) -> Experiment:
    metrics = dict.fromkeys(METRICS, 0.25) | {"average_accuracy": accuracy, "gflop_at_inference": 1.5}
    baselines = {"frozen_accuracy": 0.3, "frozen_ncm_accuracy": accuracy - 0.2, "frozen_lda_accuracy": accuracy + 0.05}
    more = {"task_parameters": 40, "oracle_accuracy": 0.9, "c_ln_lda_accuracy": 0.81, "test_images": 400}
    return Experiment(name, "abc", metrics | baselines | more, [1.0, accuracy])


RESULTS = {
    "C-LN": {seed: experiment(f"c-{seed}", accuracy) for seed, accuracy in enumerate((0.70, 0.74, 0.72))},
    "other": {0: experiment("o-0", 0.60), 2: experiment("o-2", 0.66)},
    "one seed": {1: experiment("s-1", 0.8)},
    "not run": {},
}


def result() -> dict[str, object]:
    changes: dict[str, dict[str, object]] = {name: {"lr": 0.5} for name in RESULTS}
    work = {"o-0": {"seconds": 10.0, "environment": "two cores"}}
    rows = comparison.rows(RESULTS, changes, "C-LN", work)
    published = read_mapping(ROOT / "sweeps/published.yaml")
    return {
        "rows": rows,
        "beside": comparison.beside(RESULTS["C-LN"]),
        "reference": "C-LN",
        "seeds": [0, 1, 2],
        "params": PLAIN | {"num_tasks": 2},
        "published": published,
        "seed_moves": "`seed` moves what it moves.",
    }


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_differences_are_paired_and_their_interval_is_students(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = (dict(enumerate(column)) for column in zip(*pairs, strict=True))
    difference = comparison.paired_difference(ours, theirs)
    assert difference is not None
    if len({round(a - b, 12) for a, b in pairs}) > 1:
        interval = stats.ttest_rel(list(ours.values()), list(theirs.values())).confidence_interval()
        assert (difference["low"], difference["high"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert difference["mean"] == pytest.approx(sum(a - b for a, b in pairs) / len(pairs), abs=1e-9)


def test_only_common_seeds_are_compared() -> None:
    rows = {row["name"]: row for row in comparison.rows(RESULTS, UNCHANGED, "C-LN", {})}
    assert rows["other"]["difference"]["mean"] == pytest.approx((0.60 - 0.70 + 0.66 - 0.72) / 2)
    assert rows["one seed"]["difference"] == {"mean": pytest.approx(0.06), "low": None, "high": None}
    assert rows["C-LN"]["metrics"]["average_accuracy"]["std"] == pytest.approx(0.02)
    assert rows["C-LN"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert comparison.paired_difference({1: 0.5}, {2: 0.5}) is None
    assert "not run" not in rows


def test_page_names_variants_seeds_and_what_was_published() -> None:
    content = result()
    text = comparison.page(content)
    assert "| C\\-LN | 72.0 ± 2.0 | +0.0 [+0.0, +0.0] |" in text
    assert "| one seed | 80.0 | +6.0 | 81.0 |" in text
    assert "| frozen backbone, linear discriminant | 77.0 ± 2.0 | +5.0 [+5.0, +5.0] |" in text
    assert "**C-LN is 5.0 points below the best baseline (frozen backbone, linear discriminant).**" in text
    assert "seeds 0, 1, 2." in text
    assert "`seed` moves what it moves." in text
    assert "| test images" not in text  # a count is no percentage
    assert "## Published numbers, not measured here" in text
    assert "86.95 ± 0.37 (6.98)" in text
    assert "two cores" in text
    assert comparison.page(json.loads(json.dumps(content))) == text


def test_a_metric_that_a_variant_lacks_is_an_empty_cell() -> None:
    def without(experiment: Experiment, *absent: str) -> Experiment:
        return replace(experiment, metrics={k: v for k, v in experiment.metrics.items() if k not in absent})

    lacking = ("selection_accuracy", "oracle_accuracy", "forgetting")
    results = {**RESULTS, "other": {seed: without(one, *lacking) for seed, one in RESULTS["other"].items()}}
    for first in ("other", "C-LN"):  # whichever comes first
        ordered = {first: results[first], **results}
        rows = comparison.rows(ordered, UNCHANGED, "C-LN", {})
        text = comparison.page({**result(), "rows": rows})
        assert re.search(r"\| other \| 63\.0 ± 4\.2 \| [^|]+ \| 81\.0 ± 0\.0 \|  \|  \| 40 \|", text)
        assert "oracle accuracy" in text
        assert re.search(r"\| other \|.*\|  \|.*\n", text.split("## The other metrics")[1])
        json.loads(json.dumps(rows), parse_constant=pytest.fail)


def test_without_the_reference_there_is_no_verdict() -> None:
    results = {**RESULTS, "C-LN": {}}
    rows = comparison.rows(results, UNCHANGED, "C-LN", {})
    assert "best baseline" not in comparison.page({**result(), "rows": rows, "beside": comparison.beside({})})


def test_figures_depend_on_numbers_only() -> None:
    rows = comparison.rows(RESULTS, UNCHANGED, "C-LN", {})
    curves = {row["name"]: row["over_tasks"] for row in rows}
    points = {
        row["name"]: (row["metrics"]["task_parameters"]["mean"], row["metrics"]["average_accuracy"]) for row in rows
    }
    assert bands(curves) == bands(curves) != bands({"C-LN": curves["C-LN"]})
    assert scatter(points) == scatter(points)


def test_declared_sweeps_name_parameters_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for file in Path("sweeps").glob("*.yaml"):
        if file.name != "published.yaml":
            grid = cells(read_sweep(file))
            assert len({cell.name for cell in grid}) == len(grid)


def test_seconds_of_an_experiment_are_those_of_its_last_runs(tmp_path: Path) -> None:
    log = tmp_path / "stages.jsonl"
    assert work_by_experiment(log) == {}
    lines = [
        ("a", "split", 1.0, "Python"),
        ("a", "keys", 9.0, "torch"),
        ("a", "keys", 2.0, "torch"),
        ("b", "split", 4, "x"),
    ]
    keys = ("experiment", "stage", "seconds", "environment")
    log.write_text("".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines))
    assert work_by_experiment(log) == {
        "a": {"seconds": 3.0, "environment": "torch"},
        "b": {"seconds": 4, "environment": None},
    }


@pytest.mark.parametrize("cut", ["{", '{"experiment": "a", "sta', '{"experiment": "\u00e9'.encode()[:-1], b"\0" * 40])
def test_a_line_of_the_log_that_was_cut_off_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str | bytes
) -> None:
    for name, value in (("DVC_EXP_NAME", "e"), ("DVC_STAGE", "split"), ("DVC_ROOT", str(tmp_path))):
        monkeypatch.setenv(name, value)
    with logged():
        pass
    log = tmp_path / LOG
    with log.open("ab") as file:
        file.write(cut.encode() if isinstance(cut, str) else cut)
    monkeypatch.setenv("DVC_EXP_NAME", "f")
    with logged():
        pass
    assert work_by_experiment(log).keys() == {"e", "f"}
