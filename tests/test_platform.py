"""Where the project runs, and what it keeps to itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.root import ROOT


@pytest.mark.parametrize("command", ["pipeline --help", "pipeline.dvc repro", "stages.code", "stages.predict a.png"])
def test_windows_is_refused_at_once_in_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.name = 'nt'\n")
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: this needs Linux or macOS")
    assert done.stderr.endswith("use WSL 2\n")
    assert done.stderr.count("\n") == 1


def test_neither_dvc_nor_the_hub_s_client_tells_anybody() -> None:
    asked = (
        "from pipeline.backbone import timm_vit; "
        "from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY as off; "
        "from dvc.updater import Updater; from dvc import analytics; "
        "print(off, Updater('.').is_enabled(), analytics.is_enabled())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "HF_"))}
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == "True False False\n"
