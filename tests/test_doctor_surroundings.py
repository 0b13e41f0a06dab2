"""The doctor on what surrounds a result: parameters, versions, other processes, git and room on the disk."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.doctor import wrong
from harness.parameters import set_params
from harness.root import ROOT
from pipeline.errors import UserError
from pipeline.experiments.queue import revisions
from pipeline.health import doctor
from pipeline.health.findings import Finding
from pipeline.runtime.dvc_lock import RWLOCK
from pipeline.store import artifacts


@pytest.mark.usefixtures("tiny_repository")
def test_parameters_and_pipeline_must_agree() -> None:
    assert doctor.check_parameters().ok
    set_params(Path("params.yaml"), num_tasks=7)
    assert "num_tasks is 7, but tasks ends at t3" in doctor.check_parameters().what
    text = Path("params.yaml").read_text()
    for given, what in (("num_tasks: '5'", "num_tasks is '5'"), ("tasks:", "tasks is not a chain")):
        name = given.partition(":")[0]
        Path("params.yaml").write_text(re.sub(rf"^{name}:.*\n(  .*\n)*", f"{given}\n", text, flags=re.MULTILINE))
        assert what in doctor.check_parameters().what
    Path("params.yaml").write_text(text.replace("\nlr:", "\nlrr:"))
    found = doctor.check_parameters()
    assert not found.ok
    assert "lr is in dvc.yaml only; lrr is in params.yaml only" in found.what


def test_environment_versions_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_versions().ok
    monkeypatch.chdir(tmp_path)
    Path("constraints.txt").write_text("# pins\ntorch==0.4.1\nno-such-package==1.0\n")
    found = doctor.check_versions()
    assert not found.ok
    assert f"torch {doctor._installed('torch')}, not 0.4.1" in found.what
    assert "no-such-package" not in found.what  # what only developers need may be missing
    monkeypatch.setenv("DEVICE", "abacus")
    assert "DEVICE='abacus' cannot be used" in doctor.check_device().what
    monkeypatch.setenv("PATH", "/nowhere")
    assert [finding.ok for finding in doctor.check_environment()] == [False] * 3


def test_leftovers_of_dead_processes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        artifacts.save_bytes(Path(f"artifacts/heads/.t1.safetensors.{pid}"), b"half")
    RWLOCK.parent.mkdir(parents=True)
    for pid, at_work in ((ended.pid, False), (os.getpid(), True)):
        holder = {"pid": pid, "cmd": "dvc repro"}
        RWLOCK.write_text(json.dumps({"write": {"a": holder}, "read": {"b": [holder]}}))
        found = wrong(doctor.check_leftovers())
        assert Path(f"artifacts/heads/.t1.safetensors.{ended.pid}") in {f.remove for f in found.values()}
        assert len(found) == 2 - at_work
    for cut_off in ("{", ""):  # DVC empties the file before it writes anew
        RWLOCK.write_text(cut_off)
        assert RWLOCK in {finding.remove for finding in wrong(doctor.check_leftovers()).values()}


def test_one_line_for_each_process_that_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC's lock file names a process for every path that it reads or writes."""
    monkeypatch.chdir(tmp_path)
    RWLOCK.parent.mkdir(parents=True)
    repro, push = ({"pid": pid, "cmd": f"dvc {what}"} for pid, what in ((os.getpid(), "repro"), (os.getppid(), "push")))
    reads = {f"data/{number}": [repro, push] for number in range(9)}
    RWLOCK.write_text(json.dumps({"write": {f"out/{number}": repro for number in range(9)}, "read": reads}))
    lines = [finding.what for finding in doctor.check_leftovers()][1:]
    assert sorted(lines) == [
        f"another dvc is running: `dvc {what}` (PID {pid})"
        for what, pid in (("push", os.getppid()), ("repro", os.getpid()))
    ]
    for damaged in ("[]", '{"write": []}', '{"read": {"a": [1]}}', '{"write": {"a": {"pid": "x"}}}'):
        RWLOCK.write_text(damaged)
        assert RWLOCK in {finding.remove for finding in wrong(doctor.check_leftovers()).values()}


def test_what_git_refuses_is_said_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def of_git() -> Finding:
        return list(doctor.check_environment())[-1]

    assert of_git()[1:3] == ("git: no git repository here", "work in a clone's root")
    subprocess.run(["git", "init", "-q"], check=True)
    assert of_git().ok
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    found = of_git()
    assert "another user's" in found.what
    assert f"git config --global --add safe.directory {tmp_path}" in found.remedy
    with pytest.raises(UserError, match="another user's"):
        revisions()
    monkeypatch.setenv("PATH", "/nowhere")
    assert of_git()[1:3] == ("git: git is not on the PATH", "install it")
    assert not capfd.readouterr().err


def test_line_endings_that_git_has_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a clone that was made before .gitattributes forbade it; in one made since, no byte is another."""
    monkeypatch.chdir(tmp_path)
    git = ("git", "-c", "core.autocrlf=true", "-c", "core.safecrlf=false", "-c", "user.name=a", "-c", "user.email=b")
    for folder, attributes in (("old", ""), ("new", (ROOT / ".gitattributes").read_text())):
        Path(folder, "pipeline").mkdir(parents=True)
        Path(folder, "pipeline/a.py").write_bytes(b"a = 1\n")
        Path(folder, "pipeline/windows.txt").write_bytes(b"b\r\n")
        Path(folder, ".gitattributes").write_text(attributes)
        subprocess.run([*git, "init", "-q", folder], check=True)
        for command in (["add", "-A"], ["commit", "-qm", "all"]):
            subprocess.run([*git, "-C", folder, *command], check=True)
        subprocess.run([*git, "clone", "-q", folder, f"{folder}-clone"], check=True)
    monkeypatch.chdir("new-clone")
    assert not list(doctor.check_line_endings())
    assert Path("pipeline/a.py").read_bytes() == b"a = 1\n"
    assert Path("pipeline/windows.txt").read_bytes() == b"b\r\n"
    monkeypatch.chdir("../old-clone")
    (found,) = doctor.check_line_endings()
    assert "pipeline/a.py" in found.what
    assert not found.ok


def test_a_full_disk_and_a_folder_without_access_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(finding.ok for finding in doctor.check_room(tmp_path / "not/yet"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    assert len(wrong(doctor.check_room(tmp_path))) == 3
    cache, shared = (list(doctor.check_room(folder))[1].remedy for folder in (Path(".dvc/cache"), Path("/a/cache")))
    assert "`dvc gc --all-commits --all-experiments`" in cache
    assert "other projects" in shared
    assert not [finding for finding in doctor.check_room(tmp_path) if "gc -w" in finding.remedy]
    monkeypatch.setattr("os.access", lambda *_: False)
    assert all("cannot be written to" in what for what in wrong(doctor.check_room(tmp_path)))
