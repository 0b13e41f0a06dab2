"""DVC's plots as a browser sees them: the numbers of the tables and the report, on a self-contained page."""

import csv
import io
import json
import re
from collections import Counter
from typing import Any

import pytest
from dvc_render.vega import VegaRenderer

from harness.dvc_repository import Repository
from harness.parameters import set_params
from harness.root import ROOT
from pipeline.store import artifacts

OVER_TASKS, MATRIX, SELECTION = "Average accuracy over the tasks", "Accuracy matrix", "Selected task by true task"
PAGE = ROOT / ".dvc/plots/page.html"


def specifications(page: str) -> dict[str, dict[str, Any]]:
    """What the page draws, by title."""
    specs = [json.loads(text) for text in re.findall(r"var spec = (\{.*\});\n\s*vegaEmbed", page)]
    return {spec["title"]["text"]: spec for spec in specs}


def rows(repository: Repository, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(repository.read(f"reports/{name}.csv"))))


def cells(spec: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Row, column and shown value of each cell that a heat map draws."""
    inner = spec["spec"]
    axes, transform = inner["encoding"], inner["transform"][0]
    shown = re.fullmatch(r"toNumber\(datum\['(\w+)'\]\)", transform["calculate"])
    assert shown
    for layer, channel in zip(inner["layer"], ("color", "text"), strict=True):
        assert layer["encoding"][channel]["field"] == transform["as"]
    values = spec["data"]["values"]
    return [(cell[axes["y"]["field"]], cell[axes["x"]["field"]], float(cell[shown[1]])) for cell in values]


def draw(repository: Repository) -> dict[str, dict[str, Any]]:
    output = repository.dvc("plots", "show")
    assert "failed" not in output.lower()
    return specifications(repository.read("dvc_plots/index.html"))


def test_every_plot_shows_the_numbers_of_its_table_and_of_the_report(repository: Repository) -> None:
    specs = draw(repository)
    assert specs.keys() == {OVER_TASKS, MATRIX, SELECTION}
    evaluation = artifacts.load_json(repository.path / artifacts.EVALUATION)
    report = repository.read("reports/report.md")

    curves = specs[OVER_TASKS]
    x, y = curves["encoding"]["x"]["field"], curves["encoding"]["y"]["field"]
    method = curves["encoding"]["color"]["field"]
    points = [(point[method], point[x], point[y]) for point in curves["data"]["values"]]
    assert points == [(r["method"], r["tasks_learned"], r["accuracy"]) for r in rows(repository, "accuracy_over_tasks")]
    finals = {name: float(value) for name, step, value in points if step == "2"}
    assert {"C-LN", "C-LN, linear discriminant", "frozen backbone, linear discriminant"} < finals.keys()
    assert all(f"| {name} | {100 * value:.1f} |" in report for name, value in finals.items())

    accuracies = cells(specs[MATRIX])
    assert accuracies == [
        (r["after_task"], r["on_task"], float(r["accuracy"])) for r in rows(repository, "accuracy_matrix")
    ]
    triangle = [value for row in evaluation["matrices"]["c_ln"] for value in row]
    assert [value for *_, value in accuracies] == triangle
    assert [cell[:2] for cell in accuracies] == [("1", "1"), ("2", "1"), ("2", "2")]

    shares = cells(specs[SELECTION])
    assert shares == [(r["true_task"], r["selected_task"], float(r["share"])) for r in rows(repository, "selection")]
    counts = {(str(i), str(j)): n for i, row in enumerate(evaluation["selection"], 1) for j, n in enumerate(row, 1)}
    images: Counter[str] = Counter()
    for (own, _), count in counts.items():
        images[own] += count
    assert {(own, task): share for own, task, share in shares} == pytest.approx(
        {(own, task): count / images[own] for (own, task), count in counts.items()}, abs=1e-6
    )


def test_axes_are_named_and_everything_is_in_percent(repository: Repository) -> None:
    specs = draw(repository)
    titles = {name: [specs[name]["spec"]["encoding"][axis]["title"] for axis in "xy"] for name in (MATRIX, SELECTION)}
    assert titles == {MATRIX: ["on task", "after task"], SELECTION: ["selected task", "true task"]}
    for name in (MATRIX, SELECTION):
        for axis in "xy":  # tasks in the order of the table, 10 after 9
            assert specs[name]["spec"]["encoding"][axis]["sort"] is None
        assert specs[name]["spec"]["layer"][1]["encoding"]["text"]["format"] == ".0%"
    assert specs[OVER_TASKS]["encoding"]["y"]["axis"]["format"] == ".0%"


@pytest.mark.slow
def test_where_one_model_serves_all_nothing_is_selected_and_every_plot_is_drawn(repository: Repository) -> None:
    set_params(repository.path / "params.yaml", selection="average", classifier="carried_gaussians")
    repository.dvc("repro")
    specs = draw(repository)
    assert {cell[1:] for cell in cells(specs[SELECTION])} == {("none", 1.0)}
    assert "C-LN, true task given" not in {point["method"] for point in specs[OVER_TASKS]["data"]["values"]}
    metrics = json.loads(repository.read("reports/metrics.json"))
    assert not {"oracle_accuracy", "selection_accuracy"} & metrics.keys()
    assert not (repository.path / "reports/figures/selection.png").exists()
    assert "right LayerNorms" not in repository.run("python", "-m", "pipeline", "summary")
    repository.commit("average")
    assert "failed" not in repository.dvc("plots", "diff", "HEAD~1", "HEAD")
    assert "oracle_accuracy" in repository.dvc("metrics", "diff", "--all", "HEAD~1", "HEAD")


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = PAGE.read_text()
    assert "{plot_divs}" in page
    assert "{scripts}" not in page, "DVC's own scripts, which come from the network"
    assert not re.search(r"<(script|link)\b[^>]*\b(src|href)=", page)
    for name, version in re.findall(r"npm/([\w-]+)@([\d.]+)", VegaRenderer.SCRIPTS):
        assert f"{name}@{version}" in page, "DVC draws with another version: .dvc/plots/page.html has to follow"
    assert page.count("<script>") == len(re.findall("<script", VegaRenderer.SCRIPTS))
