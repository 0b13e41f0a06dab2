"""Unpacks what was downloaded, so that nothing lands outside its folder and the disk is not filled.

No absolute or `..` path, link or device; and no more than a multiple of the archive's own size, as a bomb would.
"""

import gzip
import shutil
import tarfile
import zipfile
from pathlib import Path

from pipeline.errors import UserError

_MOST_TIMES = 100  # images hardly shrink: the data sets' archives unpack to less than three times their size
_SMALL = 2**20  # bytes that any archive may unpack to
_MEMBER = 4096  # bytes of the disk that a file takes beside its content
_CHUNK = 2**20


def unpack(archive: Path, folder: Path) -> None:
    """A tar or zip archive into `folder`, a `.gz` file under its name without that; any other file is copied there.

    Raises UserError for an archive that is damaged, would leave the folder or would fill the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    room = _Room(archive)
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter=room.checked)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                for member in content.infolist():
                    room.take(_MEMBER + member.file_size)
                content.extractall(folder)  # drops roots and .. from names, and writes links as plain files
        elif archive.suffix == ".gz":
            with gzip.open(archive) as source, (folder / archive.stem).open("wb") as target:
                for chunk in iter(lambda: source.read(_CHUNK), b""):
                    room.take(len(chunk))
                    target.write(chunk)
        else:
            shutil.copy(archive, folder)
    except UserError:
        raise
    except Exception as error:
        # Damage makes the readers of tar, zip and their compressions raise a dozen unrelated types.
        raise UserError(f"{archive} cannot be unpacked ({error}): delete it, then `dvc repro`") from None


class _Room:
    """How much an archive may still unpack to."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.left = archive, _SMALL + _MOST_TIMES * archive.stat().st_size

    def take(self, size: int) -> None:
        """Raises UserError where that is too much."""
        self.left -= size
        if self.left < 0:
            raise UserError(f"{self.archive} unpacks to more than {_MOST_TIMES} times its size: delete it")

    def checked(self, member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        """As tarfile's filters: the member if it may be extracted."""
        self.take(_MEMBER + member.size)
        return tarfile.data_filter(member, folder)
