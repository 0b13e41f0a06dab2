"""The stage server: whose modules a stage runs, and temporary folders in which nothing can be run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.runtime import stage_server


def test_a_stage_runs_the_modules_of_its_own_folder_from_the_first_on(tmp_path: Path) -> None:
    for package in ("pipeline", "stages"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "stages/say.py").write_text("import pipeline; print(pipeline.__file__)")
    server = stage_server.start(os.environ)
    try:
        assert psutil.Process(server.process.pid).environ()["GOMP_SPINCOUNT"] == "5000", "read when torch is loaded"
        said = subprocess.run(
            ["python", "-m", "stages.say"],
            cwd=tmp_path,
            env=server.environment,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        stage_server.stop(server)
    assert said.stdout.strip() == str(tmp_path / "pipeline/__init__.py")
    assert not any(folder.exists() for folder in server.folders)


@pytest.mark.parametrize("can_run", ["elsewhere", "nowhere"])
def test_where_temporary_files_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_run: str) -> None:
    """As in a folder that is mounted noexec: the stand-in is placed elsewhere, or stages run without it."""
    temporary, project = tmp_path / "temporary", tmp_path / "project"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(stage_server, "ROOT", project)
    run = subprocess.run
    noexec = temporary if can_run == "elsewhere" else tmp_path

    def refusing(command: list[Path], **options: object) -> object:
        if command[0].is_relative_to(noexec):
            raise PermissionError(13, "Permission denied", str(command[0]))
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", refusing)
    address = temporary / "stages1" / "socket"
    place = stage_server._stand_in(address.parent, address)
    if can_run == "elsewhere":
        assert place == project / ".scratch/stages1"
        assert run([place / "python", "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\n"
    else:
        assert not list(tmp_path.rglob("python")), "Python would take such a file for itself"


@pytest.mark.parametrize("folder", ["a folder", "it's", "long" * 40])
def test_the_stand_in_runs_whatever_the_path_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / folder).mkdir()
    python = tmp_path / folder / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    place = stage_server._stand_in(tmp_path / "place", tmp_path / "place/socket")
    said = subprocess.run([place / "python", "-c", "print(1)"], capture_output=True, text=True, check=True)
    assert said.stdout == "1\n"


def test_no_folder_for_temporary_files_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="No such file or directory: make room there, or let TMPDIR name another"):
        stage_server.start(os.environ)
