"""Files of data sets on servers: where they come from, where they lie here, and which are missing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data import hub
from pipeline.data.hub import HubFile


@dataclass(frozen=True)
class Remote:
    """A file on a server, with the MD5 that its publisher gives."""

    url: str
    md5: str | None  # None: none is published. The first one seen here is then kept beside the file
    megabytes: float = 0  # approximate; 0: unknown
    file: str = ""  # its name here, if the URL does not end in it
    by_hand: bool = False  # whether only a browser can download it
    hub: HubFile | None = None  # a copy on the Hugging Face Hub, used if the URL fails

    @property
    def name(self) -> str:
        """The file's name, on the server and here."""
        return self.file or self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Missing:
    """A file that a run needs and that is missing."""

    url: str
    megabytes: float
    place: str  # where a user would put it by hand
    by_hand: bool = False  # whether there is no other way
    hub: str = ""  # the copy on the Hugging Face Hub; empty: there is none

    def __str__(self) -> str:
        """One line for the user."""
        size = f" ({self.megabytes:,.1f} MB)" if self.megabytes else ""
        if self.by_hand:
            return f"{Path(self.place).name}{size}: download it in a browser from {self.url} and put it at {self.place}"
        otherwise = f", else {self.hub}" if self.hub else ""
        return f"{self.url.rpartition('/')[2]}{size} from {self.url}{otherwise}; by hand: {self.place}"


def place(remote: Remote, dataset: str) -> Path:
    """Where a file of a data set lies."""
    # In an experiment's temporary copy of the repository, DVC_ROOT still names the repository itself.
    return Path(os.environ.get("DVC_ROOT", ".")) / "downloads" / dataset / remote.name


def missing(remotes: Sequence[Remote], dataset: str) -> list[Missing]:
    """The files of a data set that are missing here."""
    found = []
    for remote in remotes:
        path, copy = place(remote, dataset), copy_on_hub(remote, dataset)
        if not path.exists():
            by_hand = remote.by_hand and not copy
            found.append(Missing(remote.url, remote.megabytes, str(path), by_hand, str(copy or "")))
    return found


def copy_on_hub(remote: Remote, dataset: str) -> HubFile | None:
    """The copy that is tried if the URL fails: in the repository that the environment names, or that of the entry."""
    return hub.mirror(dataset, remote.name) or remote.hub
