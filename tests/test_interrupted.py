"""The real `dvc`, killed and edited under: no stage outlives it, no old result is filed as new, no work is lost."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from harness.dvc_repository import Repository
from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import run_stage
from harness.stage_repository import prepare
from pipeline.errors import UserError
from pipeline.params import read_declared
from pipeline.runtime.orphans import SECONDS_BETWEEN_LOOKS
from pipeline.runtime.unchanged import unchanged
from pipeline.store import artifacts

SLEEPER = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pipeline.runtime import orphans
orphans.end_with_dvc()
print(os.getpid(), flush=True)
time.sleep(60)
"""


def orphaned(command: list[str], folder: Path, environment: dict[str, str]) -> psutil.Process:
    """A process that prints its number, after the death of the one that started it."""
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", parent, *command], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as dvc:
        assert dvc.stdout
        process = psutil.Process(int(dvc.stdout.readline()))
        dvc.kill()
    return process


@pytest.fixture
def _adopting() -> Iterator[None]:
    """This process adopts orphans, as the first process of a container does that shares its session with them."""
    set_child_subreaper = 36
    adopt = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None
    adopt(set_child_subreaper, 1, 0, 0, 0)
    yield
    adopt(set_child_subreaper, 0, 0, 0, 0)


@pytest.mark.usefixtures("_adopting")
@pytest.mark.parametrize("served", [True, False])
def test_a_stage_ends_when_its_dvc_is_killed(environment: dict[str, str], tmp_path: Path, served: bool) -> None:
    """Also where a shell stays between them; one started by hand goes on."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    variables = environment if served else dict(os.environ)
    python = "python" if served else shlex.quote(sys.executable)
    exec_, stay = f"exec {python} -m sleeper", f"{python} -m sleeper; true"
    stage = variables | {"DVC_STAGE": "sleeper"}
    ending = [orphaned(["sh", "-c", command], tmp_path, stage) for command in (exec_, stay)]
    _, alive = psutil.wait_procs(ending, timeout=60 * SECONDS_BETWEEN_LOOKS)  # on a busy machine
    assert not alive
    by_hand = orphaned(["sh", "-c", exec_], tmp_path, variables)
    time.sleep(2 * SECONDS_BETWEEN_LOOKS)
    assert by_hand.is_running()
    by_hand.kill()


def start(repository: Repository) -> subprocess.Popen[str]:
    """`dvc repro` of the first task's LayerNorms, in the midst of its epochs."""
    dvc = subprocess.Popen(
        ["dvc", "repro", "stage_one@t1"],
        cwd=repository.path,
        env=repository.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while dvc.poll() is None and not list(repository.path.glob(".scratch/resume/*")):
        time.sleep(0.01)
    return dvc


def test_edited_then_killed_then_finished(repository: Repository) -> None:
    set_params(repository.path / "params.yaml", epochs=4)
    edited = start(repository)
    with (repository.path / "pipeline/data/augment.py").open("a") as code:
        code.write("# edited\n")
    output, _ = edited.communicate()
    assert "error: pipeline/data/augment.py changed while stage_one@t1 ran, so its result is not kept" in output
    assert "Traceback" not in output
    assert edited.returncode != 0
    assert "modified" in repository.dvc("status", "stage_one@t1")

    killed = start(repository)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    output = repository.dvc("repro", "stage_one@t1")
    assert "resuming after epoch" in output
    resumed = repository.digests("artifacts/banks/*", "artifacts/auxiliary_heads/*", "artifacts/.*")
    repository.run("python", "-m", "stages.stage_one", "t1")
    undisturbed = repository.digests("artifacts/banks/*", "artifacts/auxiliary_heads/*", "artifacts/.*")
    assert resumed == undisturbed


def test_what_a_stage_depends_on_is_read_as_dvc_reads_it(finished: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.path)
    stages = YAML(typ="safe", pure=True).load(Path("dvc.lock"))["stages"]
    assert "stage_one@t2" in stages
    for name, recorded in stages.items():
        declared = read_declared(name)
        assert sorted(declared.files) == sorted(file["path"] for file in recorded["deps"])
        assert declared.params == recorded.get("params", {}).get("params.yaml", {})


def test_what_a_killed_process_left_half_written_goes_with_the_next_write(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    for name in (f".a.json.{dead.pid}", f".a.json.{os.getppid()}", f".b.json.{dead.pid}", ".a.json.swp"):
        (tmp_path / name).touch()
    artifacts.save_json(tmp_path / "a.json", {})
    left = {f".a.json.{os.getppid()}", f".b.json.{dead.pid}", ".a.json.swp", "a.json"}
    assert {file.name for file in tmp_path.iterdir()} == left, "that of a living process, of another file, of an editor"


def change(what: str) -> None:
    """A parameter, or the content of a file."""
    if what.endswith(".safetensors"):
        Path(what).write_bytes(Path(what).read_bytes())
    else:
        set_params(Path("params.yaml"), **{what: 7})


@pytest.mark.usefixtures("tiny_repository")
def test_what_changed_is_named() -> None:
    prepare()
    run_stage("stage_one", "t1")
    heads = str(artifacts.auxiliary_heads_file("t1"))
    with pytest.raises(UserError, match=f"^lr in params.yaml, {heads} changed while stage_one@t2 ran"):
        edit_during("stage_one@t2", "lr", heads)
    with pytest.raises(UserError, match=r"^data/train/t1.safetensors changed while queries ran"):
        edit_during("../dvc.yaml:queries", "data/train/t1.safetensors")
    edit_during("stage_one@t2", "classifier_lr", "data/train/t1.safetensors")
    edit_during("", "lr")


@pytest.mark.usefixtures("tiny_repository")
def test_files_that_appear_in_a_folder_are_named_and_those_of_file_browsers_let_be() -> None:
    prepare()

    def appear(*names: str) -> None:
        with unchanged("queries"):
            for name in names:
                Path("data/train", name).parent.mkdir(exist_ok=True)
                Path("data/train", name).write_bytes(b"new")

    appear("Thumbs.db", ".DS_Store", "._t1", "desktop.ini", ".hidden/any")
    with pytest.raises(UserError, match=r"^data/train/a/new changed while queries ran"):
        appear("a/new")
    with pytest.raises(UserError, match=r"^data/train/0, data/train/1, data/train/2, 2 more in data/train changed"):
        appear(*"01234")


@pytest.mark.usefixtures("tiny_repository")
def test_code_that_is_no_longer_what_the_run_began_with_is_named() -> None:
    prepare()
    listed = artifacts.load_json(artifacts.code_file("keys"))
    artifacts.save_json(artifacts.code_file("keys"), listed | {"pipeline/selection/key.py": "from another version"})
    with pytest.raises(UserError, match=r"^pipeline/selection/key\.py changed since this run began: `dvc repro`"):
        edit_during("keys")
    edit_during("split")
    content = artifacts.code_file("split").read_bytes()
    artifacts.code_file("split").write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"artifacts/code/split.json is damaged"):
        edit_during("split")


def edit_during(stage: str, *changes: str) -> None:
    """Run, as it were, a stage, and change some things meanwhile."""
    with unchanged(stage):
        for what in changes:
            change(what)
