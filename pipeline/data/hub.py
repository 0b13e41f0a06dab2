"""The Hugging Face Hub as a second source of a data set's file: where its server fails, or only a browser may load it.

An entry names a file of a dataset repository (`Remote.hub`). Besides, the environment variable DATASETS_HUB names a
repository that holds copies as DATASET/FILE, such as a laboratory's own. Neither is a parameter of a run: the checksum
decides whether a file is the right one, wherever it comes from.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import is_refusal

MIRROR = "DATASETS_HUB"


@dataclass(frozen=True)
class HubFile:
    """A file in a dataset repository of the hub."""

    repository: str  # owner/name
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        """For the user."""
        return f"{self.path} of dataset {self.repository} on the Hugging Face Hub"


class HubError(Exception):
    """The hub does not give a file. The message says why, in one line."""


def mirror(dataset: str, name: str) -> HubFile | None:
    """The copy of a file in the repository that the environment names; None if it names none."""
    repository = os.environ.get(MIRROR, "").strip()
    return HubFile(repository, f"{dataset}/{name}") if repository else None


def fetch(file: HubFile, target: Path) -> None:
    """Put the file at `target`. A download that broke goes on from there. Raises HubError.

    The hub's client is asked for the endpoint that HF_ENDPOINT names now, and for no other cache than beside `target`.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  (takes a second; most runs do not need it)

    folder = target.with_name(f"{target.name}.hub")
    try:
        found = hf_hub_download(
            file.repository,
            file.path,
            repo_type="dataset",
            revision=file.revision,
            local_dir=folder,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
        )
        Path(found).replace(target)
    except OSError as error:
        if is_refusal(error):
            raise
        raise HubError(_reason(error)) from None
    except Exception as error:
        # The hub's client and its transport raise a dozen unrelated types. All mean that the download failed.
        raise HubError(_reason(error)) from None
    shutil.rmtree(folder)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
