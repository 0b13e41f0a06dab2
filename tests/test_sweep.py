"""A declared grid through DVC's queue: runs what is missing, never what has finished, and names what failed."""

import contextlib
import json
import re
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


def test_a_grid_outlives_its_machine_runs_once_fails_by_name_and_goes_on(repository: Repository) -> None:
    grid = repository.path / "grid.yaml"
    grid.write_text(GRID + "  broken: {classifier: oracle_of_delphi}\n")
    command = ["python", "-m", "pipeline", "sweep", "grid.yaml", "-j", "2"]
    sweep = subprocess.Popen(command, cwd=repository.path, env=repository.env, stdout=subprocess.DEVNULL)
    while not any(
        "Running stage 'stage_two" in log.read_text() for log in repository.path.glob(".dvc/tmp/exps/run/*/*.out")
    ):
        assert sweep.poll() is None
        time.sleep(0.1)
    for process in [*running_in(repository.path), psutil.Process(sweep.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    sweep.wait()
    dead = repository.dvc("queue", "status").count("Running")
    assert dead >= 1

    output = repository.run(*command, fails=True)
    counts = re.search(r"3 experiments: (\d) finished, (\d) waiting, (\d) new", output)
    assert counts
    finished, waiting, new = map(int, counts.groups())
    assert finished + waiting + new == 3
    assert new >= dead, "what was at work when the machine died"
    assert "error: 1 of 3 experiments failed: broken-s0-" in output
    rows = {row["name"]: row for row in json.loads(repository.read("reports/comparison.json"))["rows"]}
    assert set(rows) == {"as it is", "slower head"}
    committed = json.loads(repository.read("reports/metrics.json"))
    assert rows["as it is"]["metrics"]["average_accuracy"]["mean"] == committed["average_accuracy"]
    assert rows["slower head"]["seconds"] > 0
    assert "Python" in rows["slower head"]["details"][0]["environment"]
    table = repository.run("python", "-m", "pipeline", "table")
    numbers = {line.split()[0]: re.findall(r"\d+\.\d+", line) for line in table.splitlines() if "-s0-" in line}
    lr = {name.partition("-s0-")[0]: found[0] for name, found in numbers.items()}
    assert lr == {"as-it-is": "0.005", "slower-head": "0.002", "broken": "0.005"}
    assert [len(found) for name, found in numbers.items() if name.startswith("broken")] == [1], "it has no metrics"
    assert re.search(r"broken-s0-\w+ \(failed\)", table)
    assert repository.read("params.yaml") == repository.run("git", "show", "HEAD:params.yaml")

    grid.write_text(GRID)
    repository.run("git", "commit", "-qam", "unrelated", "--allow-empty")
    again = repository.run(*command)
    assert "2 experiments: 2 finished, 0 waiting, 0 new" in again
    assert "slower-head" not in repository.run("python", "-m", "pipeline", "table"), "it changed another commit"
    assert "slower head" in repository.run("python", "-m", "pipeline", "compare", "grid.yaml") + repository.read(
        "reports/comparison.md"
    )


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
