"""Unpacks what was downloaded, so that nothing lands outside its folder: no absolute or `..` path, link or device."""

import gzip
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from pipeline.errors import UserError


def unpack(archive: Path, folder: Path) -> None:
    """A tar or zip archive into `folder`, a `.gz` file under its name without that; any other file is copied there.

    Raises UserError for an archive that is damaged or would leave the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                content.extractall(folder)  # drops roots and .. from names, and writes links as plain files
        elif archive.suffix == ".gz":
            with gzip.open(archive) as source, (folder / archive.stem).open("wb") as target:
                shutil.copyfileobj(source, target)
        else:
            shutil.copy(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}): delete it, then `dvc repro`") from None
