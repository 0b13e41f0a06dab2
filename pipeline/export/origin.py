"""Where a learner comes from: the commit, the parameters and the checksums of its files, and the run's numbers."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.inference.manifest import Manifest
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.runtime.git import git
from pipeline.store import artifacts

_LOCK = Path("dvc.lock")


def provenance(manifest: Manifest) -> dict[str, Any]:
    """Commit (None outside git), parameters and checksums."""
    return {
        "revision": _revision(),
        "params": run_params(),
        "files": manifest.files,
        "packages": {name: version(name) for name in ("torch", "timm")},
    }


def run_params() -> dict[str, Any]:
    """The parameters with which DVC last ran the stages or, if it never did, those in params.yaml."""
    if not _LOCK.exists():
        return {name: value for name, value in read_mapping(PARAMS_FILE).items() if name != "tasks"}
    found: dict[str, Any] = {}
    for stage in (read_mapping(_LOCK).get("stages") or {}).values():
        found |= stage.get("params", {}).get(PARAMS_FILE.name, {})
    return {name: found[name] for name in sorted(found) if name != "tasks"}


def metrics() -> dict[str, float]:
    """The metrics of the run, those of the report."""
    found: Mapping[str, float] = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    return {name: float(value) for name, value in found.items()}


def image_counts() -> dict[str, Any]:
    """The numbers of training and test images of each task; empty if the images are not here."""
    if not artifacts.IMAGE_COUNTS.exists():
        return {}
    counts: dict[str, Any] = artifacts.load_json(artifacts.IMAGE_COUNTS)
    return counts


def _revision() -> str | None:
    try:
        commit = git("rev-parse", "HEAD").strip()
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
    except UserError:
        return None
    return commit + (" with uncommitted changes" if changed else "")
