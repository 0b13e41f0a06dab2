"""Fetches a file of a data set: resumed after a break, verified before use, whole or not there at all.

Files lie in `downloads/DATASET/` beside the pipeline's outputs, where no run removes them; one placed there by hand is
as good.
"""

import errno
import hashlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
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
    megabytes: float = 0  # about; 0 where it is not known

    @property
    def name(self) -> str:
        """The file's name, there and here."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Missing:
    """A file that a run needs and that is not here."""

    url: str
    megabytes: float
    place: str  # where a user would put it by hand

    def __str__(self) -> str:
        """In a line."""
        size = f" ({self.megabytes:,.1f} MB)" if self.megabytes else ""
        return f"{self.url.rpartition('/')[2]}{size} from {self.url}; by hand: {self.place}"


def place(remote: Remote, dataset: str) -> Path:
    """Where a file of a data set lies."""
    # In an experiment's temporary copy of the repository, DVC_ROOT is still the repository itself.
    return Path(os.environ.get("DVC_ROOT", ".")) / "downloads" / dataset / remote.name


def missing(remotes: Sequence[Remote], dataset: str) -> list[Missing]:
    """Those of a data set's files that are not here."""
    places = [(remote, place(remote, dataset)) for remote in remotes]
    return [Missing(remote.url, remote.megabytes, str(path)) for remote, path in places if not path.exists()]


def check_network(files: Sequence[Missing]) -> None:
    """Raises UserError where a server of these files can't be reached, which no second try would mend."""
    servers = {urlsplit(file.url).netloc: file.url for file in files}
    for server, url in servers.items():
        try:
            urlopen(Request(url, method="HEAD"), timeout=TIMEOUT).close()
        except (OSError, HTTPException) as error:
            if not isinstance(error, HTTPError) and is_out_of_reach(error):
                names = ", ".join(file.url.rpartition("/")[2] for file in files)
                raise UserError(
                    f"{server} can't be reached ({_reason(error)}): connect, or place by hand, as listed above, all "
                    f"that is missing ({names}), then `dvc repro`"
                ) from None


def is_out_of_reach(error: BaseException) -> bool:
    """Whether there is no way to the server: no name of it, no route, nobody who listens."""
    cause = error.reason if isinstance(error, URLError) else error
    return isinstance(cause, socket.gaierror | ConnectionRefusedError) or (
        isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    )


def fetch(remote: Remote, dataset: str) -> Path:
    """The file, verified; downloaded unless it is here. Raises UserError that says where to place it by hand."""
    target = place(remote, dataset)
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
            reason = _reason(error)
            if is_out_of_reach(error):
                break
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


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
