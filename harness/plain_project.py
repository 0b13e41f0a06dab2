"""A folder in which stages run without DVC and git: it has everything that they read besides their own code."""

import shutil
from pathlib import Path
from typing import Any

from harness.clone import ROOT, configure
from pipeline.backbone.pretrained import EMBEDDED
from pipeline.tasks import chain


def make(folder: Path, num_tasks: int, **changes: Any) -> None:  # noqa: ANN401  (values of params.yaml)
    """Write the project's parameters, with changes, for a chain of tasks, and its embedded backbones.

    In this folder, `run_stages` of harness.stage_order runs stages in this process. With the repository on the
    PYTHONPATH, `python -m stages.NAME [TASK]` runs a stage in a process of its own.
    """
    for path in (Path("params.yaml"), Path("dvc.yaml"), *(file.path for file in EMBEDDED.values())):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    configure(folder, num_tasks=num_tasks, tasks=chain(num_tasks), **changes)
