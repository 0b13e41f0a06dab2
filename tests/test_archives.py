"""Archives that are hostile or broken: nothing is written outside their folder."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from harness.small_archives import cifar_members, tar, zipped
from pipeline.data.archives import unpack
from pipeline.errors import UserError


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        archive.addfile(info)
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        hostile("../out"),
        hostile("inside/../../out"),
        hostile("link", tarfile.SYMTYPE, "/etc"),
        hostile("link", tarfile.SYMTYPE, "../out"),
        hostile("link", tarfile.LNKTYPE, "../out"),
        hostile("device", tarfile.CHRTYPE),
        hostile("pipe", tarfile.FIFOTYPE),
        tar(cifar_members())[:200],
        gzip.compress(b"x" * 9999)[:-9],
    ],
    ids=[
        "parent",
        "parent-of-inside",
        "link-absolute",
        "link-parent",
        "hard-link",
        "device",
        "pipe",
        "cut-tar",
        "cut-gz",
    ],
)
def test_hostile_and_broken_archives_are_refused(content: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "archive.gz"
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"archive.gz cannot be unpacked .*: delete it"):
        unpack(archive, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"archive.gz", "folder"}


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_a_path_out_of_the_folder_stays_inside(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({name: b"x"}))
    (tmp_path / "a.tar").write_bytes(hostile("/out"))
    for archive in ("a.zip", "a.tar"):
        unpack(tmp_path / archive, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "a.tar", "folder"}
    assert not Path("/out").exists()
