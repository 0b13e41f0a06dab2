"""A seal: the SHA-256 of a file's name and of its content, stored in the file itself.

DVC trusts a write-protected cache object by its name and does not check its bytes. A damaged folder listing can even
give a file the name of another. So each file carries its own proof. While the digest is computed, zeros take its place.
SHA-256 is the fastest digest in the standard library (1.5 GB/s) that accidental damage cannot match.
"""

import hashlib
import re
from io import BufferedRandom, BufferedReader
from pathlib import Path

KEY = "sha256"
BLANK = "0" * 64
_PLACE = re.compile(rb'"sha256": "([0-9a-f]{64})"')
_BEGINNING = 512  # the place is within these first bytes


def seal(file: BufferedRandom, name: str) -> None:
    """Fill in the digest of a file that has been written with BLANK under KEY, near its beginning."""
    place, _, digest = _digests(file, name)
    file.seek(place)
    file.write(digest.encode())


def check_seal(path: Path) -> None:
    """Raises ValueError if the file or its name has changed since it was sealed. Reads it in pieces."""
    with path.open("rb") as file:
        _, written, digest = _digests(file, path.name)
    if written != digest:
        raise ValueError("its checksum does not match")


def read_seal(path: Path) -> str:
    """The seal of a file, not compared with its content. Raises ValueError if there is none."""
    with path.open("rb") as file:
        found = _PLACE.search(file.read(_BEGINNING))
    if not found:
        raise ValueError("it has no checksum")
    return found[1].decode()


def _digests(file: BufferedReader | BufferedRandom, name: str) -> tuple[int, str, str]:
    """The position of the digest, the digest found there, and the digest of the content."""
    file.seek(0)
    beginning = file.read(_BEGINNING)
    found = _PLACE.search(beginning)
    if not found:
        raise ValueError("it has no checksum")
    start, end = found.span(1)
    digest = hashlib.sha256(name.encode() + beginning[:start] + BLANK.encode() + beginning[end:])
    return start, found[1].decode(), hashlib.file_digest(file, lambda: digest).hexdigest()
