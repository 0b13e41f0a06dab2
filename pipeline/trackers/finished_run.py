"""What trackers are told about a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.export.origin import metrics, provenance
from pipeline.inference.manifest import read_manifest
from pipeline.store import artifacts

_TABLES = (artifacts.ACCURACY_MATRIX, artifacts.ACCURACY_OVER_TASKS, artifacts.SELECTION, artifacts.REPORT)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    name: str  # of the commit and the seed
    params: Mapping[str, str]  # an option of a block is `layernorm.norms`
    metrics: Mapping[str, float]
    steps: Sequence[Mapping[str, float]]  # per task learned: accuracy over the tasks so far, and on each of them
    origin: Mapping[str, Any]  # commit, packages, checksums
    files: Sequence[Path]  # tables, report and figures that are here


def read_run() -> Run:
    """The run in the working folder. Raises UserError if it has not finished, or if files are of different runs."""
    origin = provenance(read_manifest())
    params = dict(_flat("", origin.pop("params")))
    matrix = artifacts.load_json(artifacts.EVALUATION)["matrices"]["c_ln"]
    of_tasks = len(matrix[-1]) == len(matrix)  # else the test images are of no task
    steps = [
        {
            "average_accuracy_so_far": sum(row) / len(row),
            **({f"accuracy_on/t{task}": v for task, v in enumerate(row, 1)} if of_tasks else {}),
        }
        for row in matrix
    ]
    figures = sorted(artifacts.REPORT.parent.glob("figures/*.png"))
    files = [path for path in (*_TABLES, *figures) if path.exists()]
    commit = str(origin["revision"] or "no commit")[:8]
    return Run(f"{commit} seed {params.get('seed', '?')}", params, metrics(), steps, origin, files)


def _flat(above: str, params: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for name, value in params.items():
        found += _flat(f"{above}{name}.", value) if isinstance(value, dict) else [(above + name, str(value))]
    return found
