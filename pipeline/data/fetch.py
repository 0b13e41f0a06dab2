"""Fetches a file of a data set. Downloads resume after a break, and a file is verified before it appears.

Files lie in `downloads/DATASET/`, outside the pipeline's outputs, so no run removes them. A file placed there by hand
works just as well. Where the first server fails, the Hugging Face Hub may have a copy (pipeline.data.hub).
"""

import errno
import fcntl
import hashlib
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pipeline.data import hub
from pipeline.data.hub import HubError, HubFile
from pipeline.data.remote import Missing, Remote, copy_on_hub, place
from pipeline.errors import UserError, is_refusal
from pipeline.store import whole_files

PAUSES = (0.0, 1.0, 4.0, 16.0)  # seconds before each attempt
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 2**20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # what file systems say that have none


def check_network(files: Sequence[Missing]) -> None:
    """Raises UserError if trying again is no use: no server is reached, or only a browser can download a file.

    Files with a second source are not asked for here.
    """
    if by_hand := [file.place for file in files if file.by_hand]:
        raise UserError(f"{', '.join(by_hand)}: only a browser can download this: see the list above, then `dvc repro`")
    servers = {urlsplit(file.url).netloc: file.url for file in files if not file.hub}
    for server, url in servers.items():
        try:
            urlopen(Request(url, method="HEAD"), timeout=TIMEOUT).close()
        except (OSError, HTTPException) as error:
            if not isinstance(error, HTTPError) and is_out_of_reach(error):
                names = ", ".join(file.url.rpartition("/")[2] for file in files)
                raise UserError(
                    f"{server} can't be reached ({_reason(error)}): connect, or put the missing files ({names}) where "
                    "the list above says, then `dvc repro`"
                ) from None


def is_out_of_reach(error: BaseException) -> bool:
    """Whether the server cannot be reached: its name is unknown, there is no route, or nobody listens."""
    cause = error.reason if isinstance(error, URLError) else error
    return isinstance(cause, socket.gaierror | ConnectionRefusedError) or (
        isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    )


def fetch(remote: Remote, dataset: str) -> Path:
    """Download the file unless it is here, and verify it. Raises UserError that says where to put it by hand."""
    target = place(remote, dataset)
    is_here = target.exists()
    if is_here and (remote.md5 or _first_md5(target).exists()):
        _check(target, remote)
        return target
    copy = None if is_here else copy_on_hub(remote, dataset)
    if remote.by_hand and not (is_here or copy):
        raise UserError(f"{target} is missing: download it in a browser from {remote.url} and put it there")
    with _alone(target):
        if not target.exists():
            _fetch(remote, copy, target)
        _check(target, remote)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Only one process at a time downloads a file, wherever it runs. The others wait for it."""
    lock = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise _no_room(target, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{target.name}: another process is downloading it: waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
        lock.unlink(missing_ok=True)  # whoever waits for it now finds the target


def _fetch(remote: Remote, copy: HubFile | None, target: Path) -> None:
    """Download the file from its server, else from the hub."""
    part = target.with_name(f"{target.name}.part")
    reason = "only a browser can" if remote.by_hand else _from_server(remote, part)
    if reason and copy:
        failed_too = _from_hub(copy, remote, part)
        reason = failed_too and f"{reason}{failed_too}"
    if reason:
        raise UserError(f"{remote.url} cannot be downloaded ({reason}): try again, or put the file at {target}")
    part.replace(target)


def _from_server(remote: Remote, part: Path) -> str:
    """Download the file to `part` from its URL, in several attempts. Returns why it failed; empty if it is there."""
    reason = ""
    for pause in PAUSES:
        time.sleep(pause)
        try:
            _download(remote, part)
        except HTTPError as error:
            if error.code == 416:  # the part here is longer than the file on the server
                part.unlink(missing_ok=True)
            reason = f"the server says {error.code} {error.reason}"
        except (OSError, HTTPException) as error:  # URLError, a time-out or a broken connection
            if is_refusal(error):
                raise _no_room(part, error) from None
            reason = _reason(error)
            if is_out_of_reach(error):
                break
        else:
            if remote.md5 in (None, _md5(part)):
                return ""
            part.unlink()
            reason = "the downloaded file has another MD5"
    return reason


def _from_hub(copy: HubFile, remote: Remote, part: Path) -> str:
    """Download the file to `part` from the hub. Returns why that failed, too; empty if it is there."""
    try:
        hub.fetch(copy, part)
    except HubError as error:
        return f", nor {copy} ({error})"
    except OSError as error:
        raise _no_room(part, error) from None
    if remote.md5 in (None, _md5(part)):
        return ""
    part.unlink()
    return f", and {copy} has another MD5"


def _no_room(part: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {part}: {error.strerror}: make room or grant access, then `dvc repro` resumes it")


def _first_md5(target: Path) -> Path:
    """Where the MD5 of the first download is kept if none is published."""
    return target.with_name(f"{target.name}.md5")


def _check(target: Path, remote: Remote) -> None:
    """Raises UserError unless the MD5 is the published one or, if there is none, that of the first download."""
    found, kept = _md5(target), _first_md5(target)
    if remote.md5 is None and not kept.exists():
        print(f"{target.name}: no checksum is published; MD5 {found} is kept in {kept}")
        whole_files.write(kept, f"{found}\n".encode())
    elif remote.md5 is None and found != kept.read_text().strip():
        raise UserError(
            f"{target} is not the file first seen here: delete it or, if that one was wrong, delete {kept}; then "
            "`dvc repro`"
        )
    elif remote.md5 not in (None, found):
        raise UserError(f"{target} has another MD5 than {remote.url} ({remote.md5}): delete it, then `dvc repro`")


def _download(remote: Remote, part: Path) -> None:
    """Append the rest of the file to the part that is here."""
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
