"""The tests' small repositories, for scripts that repeat at length what a test shows in passing."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

from dvc_repository import Repository, make_repository, ran, stage_environment  # noqa: E402
from parameters import set_params  # noqa: E402
from stage_repository import digests, run_all  # noqa: E402
from stage_repository import make_repository as make_tiny_repository  # noqa: E402

__all__ = [
    "ROOT",
    "Repository",
    "digests",
    "make_repository",
    "make_tiny_repository",
    "ran",
    "run_all",
    "set_params",
    "stage_environment",
]
