"""dvc.yaml against the code: it lists every parameter that is read, and every imported module is known."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.root import ROOT
from harness.stage_order import in_order
from pipeline.params import Record
from pipeline.parts import PLACES, names
from pipeline.runtime.code import digests, modules, read_sources
from pipeline.store import artifacts
from pipeline.tasks import chain

yaml = YAML(typ="safe", pure=True)
PIPELINE = yaml.load(ROOT / "dvc.yaml")
STAGES: dict[str, dict[str, Any]] = {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}
PARAMS = yaml.load(ROOT / "params.yaml")


SOURCES = read_sources()


@pytest.mark.parametrize("name", STAGES)
def test_depends_on_the_code_that_it_runs(name: str) -> None:
    code, before = artifacts.code_file(name).as_posix(), ("method", "code")
    assert STAGES[name]["deps"].count(code) == (name not in before)
    assert any(dependency.endswith(".py") for dependency in STAGES[name]["deps"]) == (name in before)


def test_parts_are_seen_by_dvc_where_they_are_chosen_or_imported() -> None:
    """`pipeline` as a dependency leaves out the folders of parts (.dvcignore)."""
    ignored = (ROOT / ".dvcignore").read_text().splitlines()
    listed = set(STAGES["code"]["deps"])
    of_stages = modules_after({file for file in SOURCES if file.parts[0] == "stages"})
    for parameter, place in PLACES.items():
        assert f"/{place.folder}/*" in ignored
        assert f"{place.folder}/${{{parameter}}}.py" in listed
        chosen = {Path(f"{place.folder}/{name}.py") for name in names(parameter)}
        by_parts = {file for part in chosen for file in modules(part, SOURCES) - {part}}  # members of composed kinds
        imported = {file.as_posix() for file in chosen & (of_stages | by_parts)}
        assert imported == {line.removeprefix("!/") for line in ignored if line.startswith(f"!/{place.folder}/")}
    checks = ("pipeline/inference/method.py", "pipeline/inference/contradictions.py")
    assert STAGES["method"]["deps"] == ["stages/method.py", *checks]


def test_what_editors_leave_beside_a_module_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.code.ROOT", tmp_path)
    for name in ("pipeline/a.py", "pipeline/room/b.py", "stages/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    before = read_sources()
    assert {file.as_posix() for file in before} == {"pipeline/a.py", "pipeline/room/b.py", "stages/c.py"}
    (tmp_path / "pipeline/room/.#b.py").symlink_to("somebody@machine.4711:1")  # Emacs
    (tmp_path / "stages/gone.py").symlink_to("nowhere")
    (tmp_path / "stages/.c.py.swp").touch()
    (tmp_path / "stages/._c.py").write_bytes(b"\0\5\x16\7")  # macOS, on disks of other systems
    (tmp_path / "pipeline/folder.py").mkdir()
    assert read_sources() == before


def test_modules_are_those_imported_anywhere_in_a_file_and_no_others() -> None:
    sources = {
        Path("stages/a.py"): b"from pipeline import b\nimport torch, stages.e",
        Path("stages/__init__.py"): b'"""Says."""\nimport pipeline.f',
        Path("stages/e.py"): b"",
        Path("pipeline/__init__.py"): b'"""Only says what it is."""',
        Path("pipeline/b.py"): b"def late():\n    from pipeline.c import something",
        Path("pipeline/c.py"): b"from pipeline import b",
        Path("pipeline/d.py"): b"import stages.a",
        Path("pipeline/f.py"): b"",
    }
    found = modules(Path("stages/a.py"), sources)
    assert found == sources.keys() - {Path("pipeline/d.py"), Path("pipeline/__init__.py")}
    assert digests("a", sources, {}).keys() == {path.as_posix() for path in found}
    assert digests("a", sources | {Path("pipeline/d.py"): b"pass"}, {}) == digests("a", sources, {})
    assert digests("a", sources | {Path("pipeline/c.py"): b"pass"}, {}) != digests("a", sources, {})


def test_python_itself_imports_no_other_module() -> None:
    show = "import sys, stages.features; print(*(m for m in sys.modules if m.split('.')[0] in ('pipeline', 'stages')))"
    printed = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    imported = {Path(*name.split(".")).with_suffix(".py") for name in printed.split()}
    assert imported & SOURCES.keys() <= modules(Path("stages/features.py"), SOURCES)


def test_stages_without_a_pass_import_no_timm() -> None:
    """It takes seconds."""
    stages = ("method", "code", "split", "keys", "stage_two", "evaluate", "report")
    show = f"import sys; [__import__(f'stages.{{name}}') for name in {stages}]; print('timm' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"


def modules_after(starts: set[Path]) -> set[Path]:
    return set().union(*(modules(start, SOURCES) for start in starts))


@pytest.mark.parametrize("name", STAGES)
def test_lists_exactly_the_parameters_that_the_stage_reads(name: str) -> None:
    record = getattr(importlib.import_module(f"stages.{name}"), "Params", Record)
    listed = STAGES[name].get("params", [])
    assert [param for param in listed if not param.startswith("${")] == list(record.model_fields)
    read = (ROOT / f"stages/{name}.py").read_text()
    for part in ("tuning", "classifier"):
        assert (f"${{{part}}}" in listed) == (f"read_block(params.{part}" in read and name != "method")


@pytest.mark.parametrize("name", STAGES)
def test_runs_its_module_and_says_what_it_does(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m stages.{name}"  # no ${key}: a shell would read what a user wrote
    assert STAGES[name]["desc"]


def test_benchmarks_and_tests_call_every_stage_in_order() -> None:
    names = [stage for stage, *_ in in_order(1)]
    assert sorted(names) == sorted(STAGES)
    outs = {
        name: [path for out in STAGES[name].get("outs", []) for path in ([out] if isinstance(out, str) else out)]
        for name in names
    }
    for at, name in enumerate(names):
        later = [out for other in names[at:] for out in outs[other] if "${" not in out]
        assert not [dep for dep in STAGES[name]["deps"] for out in later if dep == out or dep.startswith(out + "/")]


def test_params_file_and_pipeline_name_the_same_parameters() -> None:
    named = {name for stage in STAGES.values() for name in stage.get("params", [])}
    assert set(PARAMS) == named - {"${tuning}", "${classifier}"} | {*names("tuning"), *names("classifier")}
    assert PARAMS["tasks"] == chain(len(PARAMS["tasks"]))
    assert 1 <= PARAMS["num_tasks"] <= len(PARAMS["tasks"])
    assert all(isinstance(name, str) for name in PARAMS["tasks"])


def test_params_are_read_in_one_place() -> None:
    """No other module that a stage imports opens params.yaml, so a stage sees only the fields of its record."""
    sources = modules_after({file for file in SOURCES if file.parts[0] == "stages"})
    opening = {path for path in sources if re.search(r"PARAMS_FILE|open\(.params", (ROOT / path).read_text())}
    assert opening == {Path("pipeline/params.py")}


def test_stages_import_the_library_and_never_the_reverse() -> None:
    for path in SOURCES:
        if path.parts[0] == "pipeline":
            assert not any(file.parts[0] == "stages" for file in modules(path, SOURCES)), path


def test_an_artifact_path_is_spelled_the_same_in_the_code() -> None:
    """Every data or artifact path of dvc.yaml is one that pipeline.store.artifacts knows."""
    source = (ROOT / "pipeline/store/artifacts.py").read_text()
    for stage in STAGES.values():
        for path in (*stage["deps"], *stage.get("outs", [])):
            name = path if isinstance(path, str) else next(iter(path))
            if name not in ("pipeline", "stages") and not name.endswith(".py"):
                spelled = re.sub(r"\$\{[^}]*\}|\bt0\b|t\$\{num_tasks\}", "{task}", name).replace("t{task}", "{task}")
                assert re.sub(r"(artifacts/code/)\w+", r"\1{stage}", spelled) in source, name


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
