"""The doctor: nothing to say where all is well, a line with the remedy where it is not, and a repair that repairs."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness.damage import Damage
from harness.dvc_repository import Repository, ran
from harness.parameters import set_params
from harness.root import ROOT
from pipeline.errors import UserError
from pipeline.experiments.queue import revisions
from pipeline.health import doctor
from pipeline.health.findings import Finding, repair
from pipeline.health.storage import check_storage, locked
from pipeline.runtime.dvc_lock import RWLOCK
from pipeline.store import artifacts

EVERYTHING = ("data/**/*", "artifacts/**/*", "reports/**/*", "dvc.lock", ".dvc/cache/files/**/*")
FLIP = Damage("flip", 0.5)


def damage(file: Path) -> None:
    """What DVC does not see: it is as large, as old and as protected as before."""
    status = file.stat()
    file.chmod(0o644)
    file.write_bytes(FLIP.of(file.read_bytes()))
    file.chmod(status.st_mode)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def wrong(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings if not finding.ok}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as DVC lays it out, dvc.lock and the outputs: an artifact, a folder of two, a table without a seal."""
    monkeypatch.chdir(tmp_path)
    cache = Path("cache")

    def store(content: bytes, suffix: str = "") -> str:
        digest = hashlib.md5(content).hexdigest() + suffix
        path = cache / "files/md5" / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
        return digest

    for name in ("one.json", "folder/two.json", "folder/three.json"):
        artifacts.save_json(Path("artifacts") / name, {"name": name})
    listed = [
        {"md5": store(path.read_bytes()), "relpath": path.name} for path in sorted(Path("artifacts/folder").iterdir())
    ]
    folder = store(json.dumps(listed).encode(), ".dir")
    one = store(Path("artifacts/one.json").read_bytes())
    artifacts.save_plain_json(Path("reports/table.json"), [1])
    table = store(Path("reports/table.json").read_bytes())
    files = {"artifacts/one.json": one, "artifacts/folder": folder, "reports/table.json": table}
    artifacts.save_bytes(Path("reports/figures/one.png"), b"figure")
    files["reports/figures"] = "0" * 32 + ".dir"  # DVC keeps no list of a folder that git tracks
    outs = [{"path": path, "md5": digest} for path, digest in files.items()]
    YAML().dump({"stages": {"made": {"outs": outs}}}, Path("dvc.lock"))
    return cache


def stored(cache: Path, output: str) -> Path:
    """The cache object of an output."""
    outs = YAML(typ="safe").load(Path("dvc.lock"))["stages"]["made"]["outs"]
    locked = {str(out["path"]): str(out["md5"]) for out in outs}[output]
    return cache / "files/md5" / locked[:2] / locked[2:]


def test_nothing_is_wrong_with_what_is_intact_or_not_here(cache: Path) -> None:
    assert [finding.what for finding in check_storage(cache)] == [
        "cache: 5 objects in cache, all intact",
        "outputs: 5, as dvc.lock has them",
    ]
    shutil.rmtree("artifacts")
    shutil.rmtree("reports")
    assert not wrong(check_storage(cache))
    shutil.rmtree(cache)
    Path("dvc.lock").unlink()
    assert not wrong(check_storage(cache))


@pytest.mark.usefixtures("cache")
def test_a_lock_file_that_was_cut_off_is_named() -> None:
    for content in ("", "schema: '2.0'\nstages:\n  split:\n    outs:\n    - path: data", "stages: ["):
        Path("dvc.lock").write_text(content)
        with pytest.raises(UserError, match=r"dvc.lock is damaged: `git restore dvc.lock`"):
            locked()


@pytest.mark.parametrize("output", ["artifacts/one.json", "reports/table.json"])
@pytest.mark.parametrize("from_cache", [True, False])
def test_a_damaged_copy_is_restored_from_the_intact_one(cache: Path, output: str, *, from_cache: bool) -> None:
    artifact, copy = Path(output), stored(cache, output)
    content = copy.read_bytes()
    file = artifact if from_cache else copy
    damage(file)
    mode = file.stat().st_mode
    found = wrong(check_storage(cache))
    (what,) = found
    assert str(file) in what
    assert str(artifact) in what
    assert "restored" in repair(found[what])
    assert (artifact.read_bytes(), copy.read_bytes(), file.stat().st_mode) == (content, content, mode)
    assert not wrong(check_storage(cache))
    assert sorted(path.name for path in file.parent.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("output", ["artifacts/one.json", "reports/table.json"])
def test_what_is_damaged_everywhere_is_removed(cache: Path, output: str) -> None:
    damage(stored(cache, output))
    damage(Path(output))
    found = wrong(check_storage(cache))
    assert len(found) == 2
    for finding in found.values():
        repair(finding)
    assert not stored(cache, output).exists()
    assert not Path(output).exists()
    assert not wrong(check_storage(cache))


def test_a_damaged_list_of_a_folder_and_a_file_under_another_name(cache: Path) -> None:
    damage(stored(cache, "artifacts/folder"))
    Path("artifacts/folder/two.json").rename("artifacts/folder/four.json")
    found = wrong(check_storage(cache))
    assert {finding.remove for finding in found.values()} == {
        stored(cache, "artifacts/folder"),
        Path("artifacts/folder/four.json"),
    }


def test_a_changed_file_that_is_whole_is_not_removed(cache: Path) -> None:
    artifacts.save_json(Path("artifacts/one.json"), {"name": "another"})
    (finding,) = wrong(check_storage(cache)).values()
    assert finding.what == "artifacts/one.json comes from another run than dvc.lock"
    assert finding.remove is None


@pytest.mark.usefixtures("tiny_repository")
def test_parameters_and_pipeline_must_agree() -> None:
    assert doctor.check_parameters().ok
    set_params(Path("params.yaml"), num_tasks=7)
    assert "num_tasks is 7, but tasks ends at t3" in doctor.check_parameters().what
    text = Path("params.yaml").read_text()
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


def test_outputs_are_left_alone_while_a_dvc_writes_them(cache: Path) -> None:
    Path("reports/table.json").write_text("half")
    assert len(wrong(check_storage(cache))) == 1
    assert not wrong(check_storage(cache, at_work=True))


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
@pytest.mark.parametrize("output", ["artifacts/one.json", "artifacts/folder/two.json"])
def test_links_into_the_cache(cache: Path, kind: str, output: str) -> None:
    """DVC's cache.type: a damaged object and the link to it go, a line each; or both are whole again."""
    content = Path(output).read_bytes()
    digest = hashlib.md5(content).hexdigest()
    copied = cache / "files/md5" / digest[:2] / digest[2:]
    Path(output).unlink()
    Path(output).hardlink_to(copied) if kind == "hardlink" else Path(output).symlink_to(copied.resolve())
    assert not wrong(check_storage(cache))
    damage(copied)
    for finding in (done := [finding for finding in check_storage(cache) if not finding.ok]):
        assert "removed" in repair(finding)
    assert [finding.remove for finding in done] == [copied, Path(output)]
    assert not copied.exists()
    assert not Path(output).is_symlink()
    assert not wrong(check_storage(cache))


def test_a_link_to_an_object_that_is_restored_is_kept(cache: Path) -> None:
    copied = stored(cache, "artifacts/one.json")
    content = copied.read_bytes()
    locked = YAML(typ="safe").load(Path("dvc.lock"))
    locked["stages"]["made"]["outs"].append({"path": "artifacts/link.json", "md5": "".join(copied.parts[-2:])})
    YAML().dump(locked, Path("dvc.lock"))
    Path("artifacts/link.json").symlink_to(copied.resolve())
    damage(copied)
    for finding in check_storage(cache):
        if not finding.ok:
            assert "restored" in repair(finding)
    assert Path("artifacts/link.json").is_symlink()
    assert Path("artifacts/link.json").read_bytes() == copied.read_bytes() == content


def test_no_copy_is_taken_from_where_the_content_does_not_belong(cache: Path) -> None:
    """An object under another's name is itself to be repaired: by then it would hold something else."""
    one, table = stored(cache, "artifacts/one.json"), stored(cache, "reports/table.json")
    content = one.read_bytes()
    table.chmod(0o644)
    table.write_bytes(content)
    one.unlink()
    Path("artifacts/one.json").unlink()
    for finding in check_storage(cache):
        if not finding.ok:
            repair(finding)
    assert table.read_bytes() == Path("reports/table.json").read_bytes() != content


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


def test_the_real_dvc_brings_damage_back_and_the_doctor_ends_it(repository: Repository) -> None:
    original = repository.digests(*EVERYTHING)
    artifact = repository.path / "artifacts/banks/t1.safetensors"
    digest = hashlib.md5(artifact.read_bytes()).hexdigest()
    damage(repository.path / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}")
    artifact.unlink()
    repository.dvc("checkout", str(artifact))
    output = repository.dvc("repro", "-f", "-s", "stage_one@t2", fails=True)
    assert "error: artifacts/banks/t1.safetensors is damaged" in output
    assert "`python -m pipeline doctor --repair`, then `dvc repro`" in output
    assert "Traceback" not in output
    found = repository.run("python", "-m", "pipeline", "doctor", "--repair")
    assert (found.count("fixed"), found.count("wrong")) == (2, 0)
    assert found.count("artifacts/banks/t1.safetensors") == 3
    assert ran(repository.dvc("repro"))[:1] == ["stage_one@t1"]
    assert repository.digests(*EVERYTHING) == original


def test_what_the_doctor_says_about_room_loses_no_experiment_and_no_tag(repository: Repository) -> None:
    """Last week's learner, under a tag and in an experiment, comes back after the command that it advises."""
    heads = "artifacts/heads/t2.safetensors"
    repository.run("git", "tag", "last-week")
    learners = {"last-week": repository.digests(heads)}
    for lr in ("0.02", "0.03"):
        repository.dvc("exp", "run", "-n", f"lr-{lr[2:]}", "-S", f"classifier_lr={lr}", "stage_two@t2")
        learners[f"lr-{lr[2:]}"] = repository.digests(heads)
    repository.commit("this week")
    advised = re.search(r"`dvc (gc [^`]*)`", doctor._COLLECT)
    assert advised
    repository.dvc(*advised[1].split(), "--force")
    for name, learner in learners.items():
        repository.run("git", "checkout", "-qf", name if name == "last-week" else repository.experiment(name))
        repository.dvc("checkout", heads)
        assert repository.digests(heads) == learner


def test_a_table_without_a_seal_never_comes_from_the_cache(repository: Repository) -> None:
    metrics = repository.path / "reports/metrics.json"
    original = metrics.read_bytes()
    assert original not in repository.digests(".dvc/cache/files/md5/??/*").values()
    metrics.unlink()
    assert ran(repository.dvc("repro")) == ["evaluate"]
    assert metrics.read_bytes() == original
