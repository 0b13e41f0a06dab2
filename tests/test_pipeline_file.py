"""dvc.yaml against the code: every parameter read and every module imported is listed, nothing else is."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from imports import ROOT, imported_files
from ruamel.yaml import YAML

from pipeline.tasks import chain

yaml = YAML(typ="safe", pure=True)
PIPELINE = yaml.load(ROOT / "dvc.yaml")
STAGES: dict[str, dict[str, Any]] = {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}
PARAMS = yaml.load(ROOT / "params.yaml")


def is_code(dependency: str) -> bool:
    return dependency.endswith(".py")


@pytest.mark.parametrize("name", STAGES)
def test_lists_exactly_the_modules_that_the_stage_imports(name: str) -> None:
    listed = {dependency for dependency in STAGES[name]["deps"] if is_code(dependency)}
    assert listed == {str(path) for path in imported_files(Path(f"stages/{name}.py"))}


@pytest.mark.parametrize("name", STAGES)
def test_lists_exactly_the_parameters_that_the_stage_reads(name: str) -> None:
    record = importlib.import_module(f"stages.{name}").Params
    assert STAGES[name]["params"] == list(record.model_fields)


@pytest.mark.parametrize("name", STAGES)
def test_runs_its_module_and_says_what_it_does(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m stages.{name}"  # no ${key}: a shell would read what a user wrote
    assert STAGES[name]["desc"]


def test_params_file_and_pipeline_name_the_same_parameters() -> None:
    assert set(PARAMS) == {name for stage in STAGES.values() for name in stage["params"]}
    assert PARAMS["tasks"] == chain(len(PARAMS["tasks"]))
    assert 1 <= PARAMS["num_tasks"] <= len(PARAMS["tasks"])
    assert all(isinstance(name, str) for name in PARAMS["tasks"])


def test_params_are_read_in_one_place() -> None:
    """No other module that a stage imports opens params.yaml, so the record of a stage is all it can see."""
    sources = set().union(*(imported_files(path.relative_to(ROOT)) for path in (ROOT / "stages").glob("*.py")))
    opening = {path for path in sources if re.search(r"PARAMS_FILE|open\(.params", (ROOT / path).read_text())}
    assert opening == {Path("pipeline/params.py")}


def test_stages_import_the_library_and_never_the_reverse() -> None:
    for path in (ROOT / "pipeline").glob("*.py"):
        assert not any(file.parts[0] == "stages" for file in imported_files(path.relative_to(ROOT))), path


def test_an_artifact_path_is_spelled_the_same_in_the_code() -> None:
    """Every data or artifact path of dvc.yaml is one that pipeline.artifacts knows."""
    source = (ROOT / "pipeline/artifacts.py").read_text()
    for stage in STAGES.values():
        for path in (*stage["deps"], *stage.get("outs", [])):
            name = path if isinstance(path, str) else next(iter(path))
            if not is_code(name):
                assert (
                    re.sub(r"\$\{[^}]*\}|\bt0\b|t\$\{num_tasks\}", "{task}", name).replace("t{task}", "{task}")
                    in source
                ), name


def test_outputs_are_ignored_by_git_or_kept_out_of_the_cache() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/data/" in ignored
    assert "/artifacts/" in ignored
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for output in stage.get(kind, []):
                if isinstance(output, str):
                    assert output.split("/")[0] in ("data", "artifacts")
                else:
                    ((path, options),) = output.items()
                    assert path.startswith("reports/")
                    assert options == {"cache": False}
