"""Fetches a file of a data set: resumed after a break, verified before use, whole or not there at all.

Files lie in `downloads/DATASET/` beside the pipeline's outputs, where no run removes them; one placed there by hand is
as good.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pipeline.errors import REFUSALS, UserError

PAUSES = (0.0, 1.0, 4.0, 16.0)  # seconds before each attempt
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 2**20


@dataclass(frozen=True)
class Remote:
    """A file on a server, and the MD5 that its publisher names."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The file's name, there and here."""
        return self.url.rpartition("/")[2]


def fetch(remote: Remote, dataset: str) -> Path:
    """The file, verified; downloaded unless it is here. Raises UserError that says where to place it by hand."""
    # In an experiment's temporary copy of the repository, DVC_ROOT is still the repository itself.
    target = Path(os.environ.get("DVC_ROOT", ".")) / "downloads" / dataset / remote.name
    if target.exists():
        if _md5(target) != remote.md5:
            raise UserError(f"{target} is not the file that {remote.url} should be (MD5 {remote.md5}): delete it")
        return target
    part = target.with_name(f"{target.name}.part")
    reason = ""
    for pause in PAUSES:
        time.sleep(pause)
        try:
            _download(remote, part)
        except HTTPError as error:
            if error.code == 416:  # what is here is longer than what is there
                part.unlink(missing_ok=True)
            reason = f"the server says {error.code} {error.reason}"
        except (OSError, HTTPException) as error:  # URLError, a time-out or a broken connection
            if isinstance(error, OSError) and error.errno in REFUSALS:
                raise UserError(
                    f"cannot write {part}: {error.strerror}: make room or grant access, then `dvc repro` goes on there"
                ) from None
            reason = str(error)
        else:
            if _md5(part) == remote.md5:
                part.replace(target)
                return target
            part.unlink()
            reason = "what came has another MD5"
    raise UserError(f"{remote.url} cannot be downloaded ({reason}): try again, or place the file at {target}")


def _download(remote: Remote, part: Path) -> None:
    """The rest of the file, behind what is here of it."""
    part.parent.mkdir(parents=True, exist_ok=True)
    here = part.stat().st_size if part.exists() else 0
    request = Request(remote.url, headers={"Range": f"bytes={here}-"} if here else {})
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with urlopen(request, timeout=TIMEOUT) as response, Progress(*columns) as progress:
        if response.status != 206:
            here = 0  # the server sends the whole file again
        length = response.headers["Content-Length"]
        total = here + int(length) if length else None
        row = progress.add_task(remote.name, total=total, completed=here)
        with part.open("ab" if here else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.advance(row, len(chunk))
            if total is not None and file.tell() < total:
                raise ConnectionError(f"the connection broke after {file.tell()} of {total} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
