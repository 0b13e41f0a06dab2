"""Ctrl-C is one line and exit code 130: while modules are imported, at a question, in a stage, in a wrapped DVC."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.dvc_repository import Repository
from harness.root import ROOT
from harness.stage_repository import make_repository
from pipeline import interrupt

# Python runs it before all else: Ctrl-C, as a terminal sends it, when the process that {when} first imports a module.
SITE_CUSTOMIZE = """
import os, signal, sys
class Presses:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and {when}:
            sys.meta_path.remove(self)
            os.killpg(os.getpgrp(), signal.SIGINT)
sys.meta_path.insert(0, Presses())
"""


def press_ctrl_c(folder: Path, module: str, when: str = "True") -> dict[str, str]:
    """Environment variables that send Ctrl-C to the process group of the first process that imports a module."""
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(SITE_CUSTOMIZE.format(module=module, when=when))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return plain | {"PYTHONPATH": str(folder / "site"), "PATH": path, "DVC_NO_ANALYTICS": "1"}


def finished(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process group, as a terminal does."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["pipeline", "--help"], "typer"),
        (["pipeline", "preset", "best"], "pipeline.params"),
        (["pipeline", "sweep", "sweeps/variants.yaml"], "pipeline.experiments.sweep"),  # by the command, at work
        (["stages.predict", "image.png"], "torch"),
        (["stages.split"], "numpy"),
        (["pipeline.dvc", "status"], "subprocess"),
        (["pipeline.dvc", "status"], "dvc.cli"),
    ],
)
def test_ctrl_c_during_imports_is_one_line(tmp_path: Path, command: list[str], module: str) -> None:
    done = finished(command, ROOT, press_ctrl_c(tmp_path, module))
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


@pytest.mark.parametrize("module", ["pipeline.runtime.command", "pipeline.store.artifacts"])
@pytest.mark.parametrize(
    ("shell", "exit_code"),
    [
        pytest.param("bash", 130, id="that becomes the stage"),
        pytest.param("dash", -signal.SIGINT, id="that waits for the stage, and ends of Ctrl-C itself"),
    ],
)
def test_ctrl_c_in_a_stage_is_the_line_of_dvc(
    repository: Repository, tmp_path: Path, module: str, shell: str, exit_code: int
) -> None:
    if not (path := shutil.which(shell)):
        pytest.skip(f"{shell} is not installed")
    environment = press_ctrl_c(tmp_path, module, "'DVC_STAGE' in os.environ") | {"SHELL": path}
    done = finished(["dvc", "repro", "-f", "method"], repository.path, environment)
    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        f"ERROR: failed to reproduce 'method': failed to run: python -m stages.method, exited with {exit_code}"
    ]


def test_a_wrapped_dvc_that_was_interrupted_says_so_and_ends_with_130(repository: Repository, tmp_path: Path) -> None:
    environment = press_ctrl_c(tmp_path, "dvc.stage.run")  # in DVC, at work
    done = finished(["pipeline.dvc", "repro", "-f", "method"], repository.path, environment)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["ERROR: interrupted by the user"]


def test_ctrl_c_at_a_question_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_repository(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    before = Path("params.yaml").read_bytes()
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "preset", "cifar100"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A suite in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as asking:
        assert asking.stdin
        assert asking.stdout
        assert asking.stderr
        said = b""
        while not said.endswith(b"? [y/n] (n): "):
            said += asking.stdout.read(1) or pytest.fail(said.decode())
        asking.send_signal(signal.SIGINT)
        assert (asking.wait(), asking.stderr.read()) == (130, b"interrupted\n")
    assert Path("params.yaml").read_bytes() == before


def test_a_block_that_is_interrupted_cleans_up_and_ends_with_130(
    capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores Ctrl-C
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, found))
    steps = []

    def convert() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:  # as libraries do
            raise ImportError from None
        finally:
            steps.append("cleaned up")

    with pytest.raises(SystemExit) as leaving, interrupt.quiet():
        convert()
    assert leaving.value.code == 130
    assert steps == ["cleaned up"]
    assert capfd.readouterr().err == "interrupted\n"
    with pytest.raises(ImportError), interrupt.quiet():
        raise ImportError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
