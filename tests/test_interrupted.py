"""The real `dvc`, killed and edited under: no stage outlives it, no old result is filed as new, no work is lost."""

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
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
from pipeline.runtime import orphans
from pipeline.runtime.dvc_lock import RWLOCK
from pipeline.runtime.unchanged import unchanged
from pipeline.store import artifacts

SLEEPER = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pipeline.runtime import orphans
wait_for = orphans._wait_for
orphans._wait_for = lambda dvc: print("waits for", dvc.pid, flush=True) or wait_for(dvc)
print(os.getpid(), flush=True)
if sys.argv[1:] == ["late"]:
    sys.stdin.read()
orphans.end_with_dvc()
time.sleep(600)
"""
UNSERVED = shlex.quote(sys.executable)
LAUNCHER = """import subprocess; subprocess.run(["python", "-m", "sleeper"])"""
COMMANDS = {
    "becomes": "exec python -m sleeper",
    "becomes_late": "exec python -m sleeper late",
    "waits": "python -m sleeper; true",
    "waits_late": "python -m sleeper late; true",
    "unserved": f"exec {UNSERVED} -m sleeper",
    "unserved_waits": f"{UNSERVED} -m sleeper; true",
    "launched": f"python -c {shlex.quote(LAUNCHER)}; true",
}


@pytest.fixture(scope="module")
def sleepers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of DVC's whose stages sleep, in a folder below its root."""
    root = tmp_path_factory.mktemp("sleepers")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=root, check=True)
    (root / "project").mkdir()
    (root / "project/sleeper.py").write_text(SLEEPER)
    stages = {name: {"cmd": command, "deps": ["sleeper.py"]} for name, command in COMMANDS.items()}
    YAML().dump({"stages": stages}, root / "project/dvc.yaml")
    return root / "project"


@contextlib.contextmanager
def sleeping(
    how: str, folder: Path, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A DVC that runs a stage, and the stage's process, which watches unless it is late."""
    with subprocess.Popen(
        ["dvc", "repro", how], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as dvc:
        assert dvc.stdout
        stage = psutil.Process(next(int(line) for line in dvc.stdout if line.strip().isdecimal()))
        if not how.endswith("late"):
            assert dvc.stdout.readline() == f"waits for {dvc.pid}\n"
        try:
            yield dvc, stage
        finally:
            for process in (dvc, stage):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def _adopting() -> Iterator[None]:
    """This process adopts orphans, as the first process of a container does that shares its session with them."""
    set_child_subreaper = 36
    adopt = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None
    adopt(set_child_subreaper, 1, 0, 0, 0)
    yield
    adopt(set_child_subreaper, 0, 0, 0, 0)


@pytest.mark.usefixtures("_adopting")
@pytest.mark.parametrize("how", COMMANDS)
def test_a_stage_ends_when_its_dvc_is_killed(environment: dict[str, str], sleepers: Path, how: str) -> None:
    """Whatever stays between them, and also if DVC is gone before the stage looks for it."""
    with sleeping(how, sleepers, environment) as (dvc, stage):
        dvc.kill()
        dvc.wait()
        assert dvc.stdin
        dvc.stdin.close()  # those that are late look for their DVC now
        stage.wait(timeout=120)


def test_a_stage_ends_when_what_stands_between_is_killed(environment: dict[str, str], sleepers: Path) -> None:
    """DVC takes the death of the shell for that of the stage."""
    with sleeping("unserved_waits", sleepers, environment) as (dvc, stage):
        shell = stage.parent()
        assert shell
        shell.kill()
        stage.wait(timeout=120)
        assert dvc.wait() != 0


def test_a_stage_started_by_hand_watches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    monkeypatch.setenv("DVC_STAGE", "of_no_dvc")
    orphans.end_with_dvc()
    RWLOCK.parent.mkdir(parents=True)
    RWLOCK.write_text("{}")
    monkeypatch.delenv("DVC_STAGE")
    orphans.end_with_dvc()
    assert threading.active_count() == threads


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


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("stage", "old", "new", "reference"),
    [
        ("stage_one@t2", "  t2: {prev: t1}", "  t2: 1", "item.prev"),
        ("stage_one@t9", "", "", "item.prev"),
        ("evaluate", "\nnum_tasks:", "\nnumber:", "num_tasks"),
    ],
)
def test_a_reference_without_a_value_is_named(stage: str, old: str, new: str, reference: str) -> None:
    params = Path("params.yaml")
    assert old in params.read_text()
    params.write_text(params.read_text().replace(old, new))
    with pytest.raises(UserError, match=rf"^params.yaml: \$\{{{reference}\}} in dvc.yaml has no value for {stage}$"):
        read_declared(stage)


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
    with pytest.raises(UserError, match=r"^data/train/t1.safetensors changed while queries@t1 ran"):
        edit_during("../dvc.yaml:queries@t1", "data/train/t1.safetensors")
    edit_during("stage_one@t2", "classifier_lr", "data/train/t1.safetensors")
    edit_during("", "lr")


@pytest.mark.usefixtures("tiny_repository")
def test_files_that_appear_in_a_folder_are_named_and_those_of_file_browsers_let_be() -> None:
    prepare()

    def appear(*names: str) -> None:
        with unchanged("split"):
            for name in names:
                Path("data/raw", name).parent.mkdir(exist_ok=True)
                Path("data/raw", name).write_bytes(b"new")

    appear("Thumbs.db", ".DS_Store", "._t1", "desktop.ini", ".hidden/any")
    with pytest.raises(UserError, match=r"^data/raw/a/new changed while split ran"):
        appear("a/new")
    with pytest.raises(UserError, match=r"^data/raw/0, data/raw/1, data/raw/2, 2 more in data/raw changed"):
        appear(*"01234")


@pytest.mark.usefixtures("tiny_repository")
def test_code_that_is_no_longer_what_the_run_began_with_is_named() -> None:
    prepare()
    listed = artifacts.load_json(artifacts.code_file("keys"))
    artifacts.save_json(artifacts.code_file("keys"), listed | {"pipeline/selection/key.py": "from another version"})
    with pytest.raises(UserError, match=r"^pipeline/selection/key\.py changed since this run began: `dvc repro`"):
        edit_during("keys@t1")
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
