"""The doctor on stored files: nothing to say where all is well, a line where it is not, and a repair that repairs."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness.damage import Damage
from harness.doctor import wrong
from harness.dvc_repository import Repository, ran
from pipeline.errors import UserError
from pipeline.health import doctor
from pipeline.health.findings import repair
from pipeline.health.storage import check_storage, locked
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


@pytest.mark.slow
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
