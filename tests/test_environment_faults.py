"""A full disk, folders without access, odd paths: one line, nothing half-written (more: faults.environment)."""

import errno
import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from harness.root import ROOT
from harness.small_archives import tar, zipped
from harness.stage_repository import digests, prepare
from harness.tiny import random_images
from pipeline.backbone import timm_weights, weight_files
from pipeline.data import fetch
from pipeline.data.archives import unpack
from pipeline.data.packing import stored
from pipeline.data.remote import Remote
from pipeline.data.sets import field_sets, torchvision_sets
from pipeline.errors import UserError
from pipeline.runtime import work_log
from pipeline.runtime.command import run_app
from pipeline.store import artifacts
from stages.download import _PREFIX, scratch_folder

NOBODY = 65534
LABELS = {"labels": torch.arange(40)}
WRITERS: list[Callable[[Path], None]] = [
    lambda path: artifacts.save_tensors(path, {"a": torch.ones(2000)}),
    lambda path: artifacts.save_images(path, random_images(40), LABELS),
    lambda path: artifacts.save_json(path, {"a": list(range(2000))}),
    lambda path: artifacts.save_plain_json(path, list(range(2000))),
    lambda path: artifacts.save_csv(path, ("a",), [(n,) for n in range(2000)]),
    lambda path: artifacts.save_bytes(path, bytes(8000)),
]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the size of files, so that this process sees a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_privileges() -> Iterator[None]:
    """Make file permissions apply to root, too."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder open to everybody. pytest's own folders are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with files_of_at_most(1000), pytest.raises(UserError, match=r"cannot write .*file: File too large: make room or "):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    write(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size > 1000


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_without_access_is_named(open_folder: Path, write: Callable[[Path], None]) -> None:
    write(open_folder / "file")
    content = (open_folder / "file").read_bytes()
    open_folder.chmod(0o555)
    for path in (open_folder / "file", open_folder / "new/file"):
        with without_privileges(), pytest.raises(UserError, match=r"cannot write .*file: Permission denied: make room"):
            write(path)
    assert [(path.name, path.read_bytes()) for path in open_folder.iterdir()] == [("file", content)]


def test_a_file_without_access_is_named(open_folder: Path) -> None:
    artifacts.save_tensors(open_folder / "tensors", {})
    artifacts.save_json(open_folder / "table", {})
    for name in ("tensors", "table"):
        (open_folder / name).chmod(0)
    loads: tuple[Callable[[Path], object], ...] = (artifacts.load_tensors, artifacts.load_weights, artifacts.load_json)
    for load, name in zip(loads, ("tensors", "tensors", "table"), strict=True):
        with without_privileges(), pytest.raises(UserError, match=rf"cannot read .*{name}: Permission denied: grant"):
            load(open_folder / name)


def test_an_image_without_access_is_named_and_not_the_packed_file(open_folder: Path) -> None:
    Image.fromarray(random_images(1)[0].numpy()).save(open_folder / "image.png")
    (open_folder / "image.png").chmod(0)
    images = stored([open_folder / "image.png"], arrays=False)
    with without_privileges(), pytest.raises(UserError, match=r"cannot read .*image.png: Permission denied: grant"):
        artifacts.save_images(open_folder / "packed", images, {"labels": torch.zeros(1)})
    assert not (open_folder / "packed").exists()


def test_a_download_without_room_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    attempts = []

    def full(_: Remote, part: Path) -> None:
        attempts.append(part)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_download", full)
    with pytest.raises(UserError, match=r"cannot write .*file.bin.part: No space left on device: make room"):
        fetch.fetch(Remote("http://localhost/file.bin", ""), "set")
    assert len(attempts) == 1


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scratch_folder() as folder:
        assert not list(folder.iterdir())
    with (
        files_of_at_most(1000),
        pytest.raises(UserError, match=r"File too large: .* TMPDIR"),
        scratch_folder() as folder,
    ):
        (folder / "large").write_bytes(bytes(2000))
    assert not folder.exists()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"No usable temporary directory .* TMPDIR"), scratch_folder():
        pass


def test_what_a_killed_stage_has_unpacked_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os\nfrom stages.download import scratch_folder\nwith scratch_folder() as folder:\n"
    code += "    (folder / 'image').write_bytes(b'x')\n    os.kill(os.getpid(), 9)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "image").exists()
    of_others = [tmp_path / name for name in ("unpacked-elsewhere-1-x", "unpacked", f"{_PREFIX}{10**30}-x", "tmp1")]
    for folder in of_others:
        folder.mkdir()
    with scratch_folder() as outer, scratch_folder() as inner:
        assert set(tmp_path.iterdir()) == {*of_others, outer, inner}, "only the killed one's is gone"
    assert set(tmp_path.iterdir()) == set(of_others)


@pytest.mark.parametrize("kind", ["tar", "zip", "gz", "plain"])
def test_a_full_disk_is_not_the_fault_of_a_good_archive(tmp_path: Path, kind: str) -> None:
    plain = b"content. " * 1000
    contents = {"tar": tar({"a": plain}), "zip": zipped({"a": plain}), "gz": gzip.compress(plain), "plain": plain}
    archive = tmp_path / f"archive.{kind}"
    archive.write_bytes(contents[kind])
    with files_of_at_most(1000), pytest.raises(UserError) as refused, scratch_folder() as folder:
        unpack(archive, folder)
    assert "File too large: make room or grant access there, or set TMPDIR" in str(refused.value)
    assert "delete" not in str(refused.value)
    unpack(archive, tmp_path / "folder")
    assert [path.stat().st_size for path in (tmp_path / "folder").iterdir()] == [9000]


REFUSED = (OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "Permission denied"))


@pytest.mark.parametrize("error", REFUSED, ids=str)
def test_what_the_machine_refuses_is_not_said_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pth")
    monkeypatch.setitem(torchvision_sets._LOADERS, "cifar100", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(timm_weights, "create_model", refuse)
    monkeypatch.setattr(field_sets, "_unpacked", lambda *_: tmp_path)
    monkeypatch.setattr(field_sets, "loadmat", refuse)
    acts: list[Callable[[], object]] = [
        lambda: torchvision_sets.load("cifar100", tmp_path),
        lambda: weight_files.read(tmp_path / "weights.pth"),
        lambda: timm_weights._create("vit_tiny_patch16_224", pretrained=True),
        lambda: field_sets.load_stanford_cars(tmp_path),
    ]
    for act in acts:
        with pytest.raises(OSError, match=error.strerror):
            act()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "params.yaml"), "error: params.yaml: Permission denied: "),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device: make room"),
        (UserError("lr is 5"), "error: lr is 5"),
    ],
)
def test_what_the_machine_refuses_is_one_line_wherever_it_happens(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["fail"])
    with pytest.raises(SystemExit, match=message):
        run_app(_failing(error))


def test_any_other_error_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fail"])
    for error in (FileNotFoundError(errno.ENOENT, "No such file", "x"), KeyError("x")):
        with pytest.raises(type(error)):
            run_app(_failing(error))
    # And the log of how long stages took, without a folder to be in, stops none of them.
    for name, value in (("DVC_EXP_NAME", "e"), ("DVC_STAGE", "s"), ("DVC_ROOT", "/nowhere")):
        monkeypatch.setenv(name, value)
    with work_log.logged():
        pass


def _failing(error: Exception) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    return app


def test_a_path_with_spaces_quotes_and_unicode(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tiny_repository / "Ordner mit 'ნიმუში' & $HOME; (1)"
    shutil.copytree(tiny_repository, odd, ignore=shutil.ignore_patterns(odd.name))
    prepare()
    expected = digests("data", "artifacts")
    monkeypatch.chdir(odd)
    prepare()
    assert digests("data", "artifacts") == expected
