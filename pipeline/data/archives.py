"""Unpacks downloaded archives safely: nothing lands outside the folder, and the disk is not filled.

Absolute paths, `..`, links out of the folder and devices are refused. So is an archive that unpacks to more than a
multiple of its own size, as an archive bomb does.
"""

import gzip
import shutil
import tarfile
import zipfile
from pathlib import Path

from pipeline.errors import UserError, is_refusal

_MOST_TIMES = 100  # images hardly compress: the data sets' archives unpack to less than three times their size
_SMALL = 2**20  # bytes that any archive may unpack to
_MEMBER = 4096  # bytes on disk that a file takes besides its content
_CHUNK = 2**20


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive into `folder`, or a `.gz` file without that ending; copy any other file there.

    Raises UserError for an archive that is damaged, would write outside the folder or would fill the disk, and OSError
    for a disk that is full already.
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
                content.extractall(folder)  # it drops roots and .. from names, and writes links as plain files
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
        if is_refusal(error):
            raise  # not the archive's fault
        # On damage, the readers of tar, zip and their compressions raise a dozen unrelated types.
        raise UserError(f"{archive} cannot be unpacked ({error}): delete it, then `dvc repro`") from None


class _Room:
    """The number of bytes that an archive may still unpack to."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.left = archive, _SMALL + _MOST_TIMES * archive.stat().st_size

    def take(self, size: int) -> None:
        """Use up `size` bytes. Raises UserError if too few are left."""
        self.left -= size
        if self.left < 0:
            raise UserError(f"{self.archive} unpacks to more than {_MOST_TIMES} times its size: delete it")

    def checked(self, member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        """A filter for tarfile: returns the member if it may be extracted."""
        self.take(_MEMBER + member.size)
        return tarfile.data_filter(member, folder)
