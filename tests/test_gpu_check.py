"""The GPU check, in miniature on a CPU and without DVC: a whole run, a killed run, and parts that fail."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks.gpu.command import run
from benchmarks.gpu.measuring import figure
from benchmarks.gpu.operations import differing, operations
from benchmarks.gpu.report import Part
from harness.root import ROOT
from pipeline.runtime.code import modules, read_sources

MINIATURE = ["--device", "cpu", "--minutes", "30"]  # it takes seconds, but not on every machine
TITLES = ["The card", "ViT-B/16", "The authors' schedule", "Whole pipelines", "Two runs", "From encoded images"]


@pytest.fixture
def environment_without_dvc(tmp_path: Path) -> dict[str, str]:
    """Environment variables under which DVC cannot be imported."""
    (tmp_path / "hidden/dvc").mkdir(parents=True)
    (tmp_path / "hidden/dvc/__init__.py").write_text("raise ImportError('DVC was imported')")
    return os.environ | {
        "PYTHONPATH": f"{tmp_path / 'hidden'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", str(out), *options]


def parts(out: Path) -> list[dict[str, Any]]:
    file = out / "gpu.json"
    return list(json.loads(file.read_text())["parts"]) if file.exists() else []


@pytest.mark.slow
def test_every_part_runs_in_miniature(tmp_path: Path, environment_without_dvc: dict[str, str]) -> None:
    done = subprocess.run(
        command(Path("out"), *MINIATURE),
        cwd=tmp_path,
        env=environment_without_dvc,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = parts(tmp_path / "out")
    page = (tmp_path / "out/gpu.md").read_text()
    for number, (part, title) in enumerate(zip(found, TITLES, strict=True), start=1):
        assert part["state"].startswith("done")
        assert part["rows"], title
        assert not part["failed"]
        assert f"\n{number}. {title}" in done.stdout
        assert f"\n## {number}. {title}" in page
    assert {entry["why"] for part in found for entry in part["skipped"]} == {"no --images and --weights are given"}
    values = {(row["name"], row["unit"]): row["value"] for part in found for row in part["rows"]}
    assert values["files that differ", ""] == 0
    assert values["operations whose results differ", ""] == 0
    assert values["accuracy of presets/best, glyphs in miniature, cpu - cpu", "points"] == 0
    both = [unit for name, unit in values if name == "authors' schedule / ours, 5 epochs, glyphs in miniature"]
    assert both == ["x time", "x forward-equivalents"]
    assert "in miniature: no number here says anything about a GPU" in page


def test_killed_after_part_two_it_keeps_parts_one_and_two(
    tmp_path: Path, environment_without_dvc: dict[str, str]
) -> None:
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command(tmp_path, *MINIATURE), cwd=ROOT, env=environment_without_dvc, stdout=log, stderr=log
        )
    children: list[psutil.Process] = []
    while process.poll() is None and not children:
        if parts(tmp_path) and parts(tmp_path)[2]["state"] == "under way":
            children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    process.kill()
    process.wait()
    first, second, third, *rest = parts(tmp_path)
    assert children, (tmp_path / "log").read_text()
    assert [part["state"][:4] for part in (first, second, third)] == ["done", "done", "unde"]
    assert any("bytes read and written" in row["name"] for row in first["rows"])
    assert any("CUDA graphs" in row["name"] for row in second["rows"])
    assert not any(part["rows"] for part in rest)
    page = (tmp_path / "gpu.md").read_text()
    assert all(row["name"] in page for row in first["rows"] + second["rows"])
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive, "the part at work ends with the command"


PARTS = """
import json, os, sys, time, types
from benchmarks.gpu.measuring import Measurement, Setup, figure
from benchmarks.gpu.runner import run_part, why_not

def fails():
    yield figure("before", 1)
    raise ValueError("two\\nlines")

def wrong(setup):
    yield Measurement("fails", fails)
    yield Measurement("lacks", fails, "nothing is there")
    yield Measurement("endless", lambda: time.sleep(3600))

def gone(setup):
    yield Measurement("gone", lambda: os._exit(3))

for name, measurements in (("wrong", wrong), ("gone", gone)):
    sys.modules[f"benchmarks.gpu.{name}"] = types.SimpleNamespace(measurements=measurements)

def told(name, begin, end):
    events = []
    now = time.monotonic()
    run_part(name, setup, begin_until=now + begin, end=now + end, tell=events.append)
    return [{key: value for key, value in event.items() if key != "traceback"} for event in events]

setup = Setup("cpu", None, None, "fork")
print(json.dumps([told("wrong", 3600, 2), told("gone", 3600, 3600), told("gone", -1, 3600), why_not(setup)]))
"""


def test_what_goes_wrong_in_a_part_is_told_and_ends_nothing_else() -> None:
    printed = subprocess.check_output([sys.executable, "-c", PARTS], cwd=ROOT, text=True)
    wrong, gone, late, reason = json.loads(printed)
    assert [event.get("row", event).get("name", event) for event in wrong][1] == "before"
    assert wrong[2:] == [
        {"failed": "fails", "why": "ValueError: two"},
        {"skipped": "lacks", "why": "nothing is there"},
        {"begin": "endless"},
        {"failed": "endless", "why": "stopped: its time was over"},
    ]
    assert gone == [{"begin": "gone"}, {"failed": "gone", "why": "its process ended with exit code 3"}]
    assert late == [{"skipped": "gone", "why": "its time was over"}]
    assert reason == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "tpu"], "--device 'tpu' is unknown: choose cuda or cpu"),
        (["--part", "vti"], "--part 'vti' is unknown: choose among card, vit, authors, accuracy, repeat, inputs"),
        (["--images", "."], "--images and --weights belong together"),
        (["--images", "nowhere", "--weights", "nothing"], "--images nowhere has no folders train and test"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as ending:
        run()
    assert str(ending.value).startswith(f"error: {words}")
    assert not (tmp_path / "out").exists()


def test_a_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr("benchmarks.gpu.command.run_part", lambda name, *_, **__: begun.append(name))
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path), "--device", "cpu", "--part", "inputs", "--part", "card"])
    with pytest.raises(SystemExit) as ending:
        run()
    assert not ending.value.code
    assert begun == ["card", "inputs"]
    assert [(part["name"], part["state"][:4]) for part in parts(tmp_path)] == [("card", "done"), ("inputs", "done")]


def test_required_packages_that_are_missing_are_named_in_one_line() -> None:
    hide = "import sys; sys.modules['pydantic'] = sys.modules['ruamel'] = sys.modules['triton'] = None"
    start = f"{hide}; import runpy; runpy.run_module('benchmarks.gpu', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: packages are missing: pip install pydantic ruamel.yaml (without a network: docs/scaling.md)\n"
    )


def test_a_later_row_of_the_same_name_and_unit_takes_the_place_of_the_first() -> None:
    part = Part("card", "The card")
    for value, unit in ((1.0, "s"), (2.0, "%"), (3.0, "s")):
        part.add({"row": figure("what", value, unit)})
    assert [(row["value"], row["unit"]) for row in part.rows] == [(3.0, "s"), (2.0, "%")]


def test_the_operation_that_differs_first_is_named() -> None:
    noise = torch.Generator().manual_seed(0)
    weights = torch.ones(4, requires_grad=True)

    def step() -> None:
        weights.grad = None
        noisy = (2 * weights).sin() + torch.rand(4, generator=noise)
        noisy.exp().sum().backward()

    def same() -> None:
        weights.grad = None
        (2 * weights).sin().sum().backward()
        torch.empty(1000)

    assert differing(operations(same), operations(same)) == []
    names = differing(operations(step), operations(step))
    assert names[0] == "aten.rand.generator"
    assert "aten.exp.default" in names
    assert not any("sin" in name for name in names[:2])


def test_no_stage_needs_dvc() -> None:
    """Only the check of ignored files imports DVC, and it is skipped without DVC."""
    sources = read_sources()
    of_stages = {module for stage in sources if stage.parts[0] == "stages" for module in modules(stage, sources)}
    assert len(of_stages) > 40
    for file in of_stages:
        for node in ast.parse(sources[file]).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "dvc" for name in names), file


ASKED = """
import importlib, torch
asked = []
def recorded(name, function):
    return lambda *arguments, **options: asked.append(name) or function(*arguments, **options)
for name in ("is_available", "device_count", "current_device", "get_device_capability", "init"):
    setattr(torch.cuda, name, recorded(name, getattr(torch.cuda, name)))
from pipeline.runtime import fork_server
kept = list(fork_server.imported())
importlib.import_module("benchmarks.gpu.command")
print(asked)
"""


def test_nothing_that_is_imported_before_a_fork_looks_for_a_gpu() -> None:
    printed = subprocess.check_output([sys.executable, "-c", ASKED], cwd=ROOT, text=True)
    assert printed.strip() == "[]", "a process that is forked after that can't use a GPU"
