"""Runs the ordinary pipeline in a clone of the last commit. The clone and its DVC cache stay in `.scratch/`."""

import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent


def clone(name: str) -> Path:
    """A clone of the last commit, in a folder that is kept."""
    folder = ROOT / ".scratch" / name
    if folder.exists():
        run(["git", "fetch", "-q"], folder)
        run(["git", "reset", "-q", "--hard", "origin/HEAD"], folder)
    else:
        run(["git", "clone", "-q", str(ROOT), str(folder)], ROOT)
    return folder


def run(command: list[str], folder: Path) -> None:
    """Run a command and show its output. A failure ends the benchmark."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, check=False).returncode:
        raise SystemExit(f"{' '.join(command)} failed")


def run_dvc(folder: Path, *arguments: str) -> None:
    """Run a DVC command in the clone."""
    run([sys.executable, "-m", "pipeline.dvc", *arguments], folder)


def configure(folder: Path, **changes: object) -> None:
    """Change the clone's params.yaml."""
    yaml = YAML()
    yaml.width = 120
    params = yaml.load(folder / "params.yaml")
    params.update(changes)
    yaml.dump(params, folder / "params.yaml")


def run_plan(folder: Path, num_tasks: int) -> None:
    """Write the chain of tasks into the clone's params.yaml."""
    run([sys.executable, "-m", "pipeline", "plan", str(num_tasks)], folder)
