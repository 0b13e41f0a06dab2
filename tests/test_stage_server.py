"""What the stage server's first children run."""

import os
import subprocess
from pathlib import Path

from pipeline import stage_server


def test_the_first_stage_too_runs_the_code_of_its_own_folder(tmp_path: Path) -> None:
    for package in ("pipeline", "stages"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "pipeline/code.py").touch()
    (tmp_path / "stages/where.py").write_text("from pipeline import code\nprint(code.__file__)\n")
    server = stage_server.start(os.environ)
    try:
        printed = subprocess.run(
            ["python", "-m", "stages.where"],
            cwd=tmp_path,
            env=server.environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    finally:
        stage_server.stop(server)
    assert printed == f"{tmp_path / 'pipeline/code.py'}\n"
