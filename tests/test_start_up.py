"""Commands that compute nothing import no heavy library, so they answer immediately."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.root import ROOT

HEAVY = {"torch", "torchvision", "timm", "matplotlib", "numpy", "scipy", "sklearn", "dvc", "lightning_fabric"}


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "plan 3",
        "plan 0",
        "preset best --yes",
        "preset unknown",
        "summary",
        "table",
        *(f"{name} --help" for name in ("plan", "preset", "summary", "sweep", "compare", "table", "doctor")),
    ],
)
def test_a_command_that_computes_nothing_imports_nothing_heavy(tmp_path: Path, command: str) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline", *command.split()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        check=False,
        capture_output=True,
        text=True,
    )
    imported = set(re.findall(r"^import time:.*\| +(\w+)", done.stderr, re.MULTILINE))
    assert "pipeline" in imported, done.stderr
    assert not imported & HEAVY
