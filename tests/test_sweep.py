"""A declared grid through DVC's queue: runs what is missing, never what has finished, and names what failed."""

import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from dvc_repository import Repository
from imports import ROOT
from parameters import set_params

from benchmarks.kill import running_in
from pipeline import code
from pipeline.errors import UserError
from pipeline.experiments import Sweep, cells, read_sweep

GRID = """
seeds: [0]
reference: as it is
curves: [as it is]
variants:
  as it is: {}
  slower head: {classifier_lr: 0.002}
"""


def test_a_grid_runs_once_fails_by_name_and_goes_on(repository: Repository) -> None:
    grid = repository.path / "grid.yaml"
    grid.write_text(GRID + "  broken: {classifier: oracle_of_delphi}\n")
    output = repository.run("python", "-m", "pipeline", "sweep", "grid.yaml", "-j", "2", fails=True)
    assert "3 experiments: 0 finished, 0 waiting, 3 new" in output
    assert "error: 1 of 3 experiments failed: broken-s0-" in output
    rows = {row["name"]: row for row in json.loads(repository.read("reports/comparison.json"))["rows"]}
    assert set(rows) == {"as it is", "slower head"}
    committed = json.loads(repository.read("reports/metrics.json"))
    assert rows["as it is"]["metrics"]["average_accuracy"]["mean"] == committed["average_accuracy"]
    assert rows["slower head"]["seconds"] > 0
    assert "Python" in rows["slower head"]["details"][0]["environment"]
    assert "slower-head-s0-" in repository.run("python", "-m", "pipeline", "table")
    assert repository.read("params.yaml") == repository.run("git", "show", "HEAD:params.yaml")

    grid.write_text(GRID)
    repository.run("git", "commit", "-qam", "unrelated", "--allow-empty")
    again = repository.run("python", "-m", "pipeline", "sweep", "grid.yaml")
    assert "2 experiments: 2 finished, 0 waiting, 0 new" in again
    assert "slower head" in repository.run("python", "-m", "pipeline", "compare", "grid.yaml") + repository.read(
        "reports/comparison.md"
    )


def test_an_experiment_whose_machine_died_is_run_again(repository: Repository) -> None:
    grid = repository.path / "grid.yaml"
    grid.write_text("seeds: [0]\nreference: long\nvariants:\n  long: {epochs: 60}\n")
    command = ["python", "-m", "pipeline", "sweep", "grid.yaml"]
    sweep = subprocess.Popen(command, cwd=repository.path, env=repository.env, stdout=subprocess.DEVNULL)
    while not any("stage_one@t1" in log.read_text() for log in repository.path.glob(".dvc/tmp/exps/run/*/*.out")):
        assert sweep.poll() is None
        time.sleep(0.1)
    for process in [*running_in(repository.path), psutil.Process(sweep.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    sweep.wait()
    output = repository.run(*command)
    assert "1 experiments: 0 finished, 0 waiting, 1 new" in output
    assert "1 of 1 experiments" in output


@pytest.mark.usefixtures("tiny_repository")
def test_a_name_stands_for_parameters_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", Path.cwd())
    sweep = Sweep(seeds=[0, 7], reference="a", variants={"a": {}, "b & c": {"lr": 0.5}})
    first = cells(sweep)
    assert [cell.name.rpartition("-")[0] for cell in first] == ["a-s0", "a-s7", "b-c-s0", "b-c-s7"]
    assert cells(sweep) == first
    set_params(Path("params.yaml"), epochs=9)
    changed = cells(sweep)
    assert not {cell.name for cell in first} & {cell.name for cell in changed}
    Path("pipeline/report.py").write_text("# other words")
    assert cells(sweep) == changed, "the report's code has no part in the numbers"
    Path("pipeline/tuning.py").write_text("# another training")
    assert not {cell.name for cell in cells(sweep)} & {cell.name for cell in changed}


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seeds: []\nreference: a\nvariants: {a: {}}", "seeds: list should have at least 1 item"),
        ("seeds: [0]\nreference: b\nvariants: {a: {}}", "'b' is none of its variants"),
        ("seeds: [0]\nreference: a\nvariants: {a: {lrr: 1}}", "variant 'a': 'lrr' is no parameter"),
        ("seeds: [0]\nreference: a\nvariants: {a: {seed: 1}}", "variant 'a': 'seed' is no parameter"),
        ("seeds: [0]\nreference: a\nvariant: {a: {}}", "variants: field required"),
    ],
)
def test_a_wrong_grid_is_one_line(content: str, message: str) -> None:
    Path("grid.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_sweep(Path("grid.yaml"))
