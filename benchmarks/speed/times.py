"""Times the main commands on this machine: `python -m benchmarks.speed.times`, or `make bench`.

Everything runs in a fresh clone of the last commit, with the environment of this interpreter. So the times are those
that a user waits after the installation.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.speed.ratios import machine_name

ROOT = Path(__file__).parents[2]
GOALS = {
    "dvc repro, empty cache": (["dvc", "repro"], 180),
    "dvc repro, nothing to do": (["dvc", "repro"], 4),
    "tests": ([sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"], 180),
    "dvc exp run -S classifier_lr=0.002": (["dvc", "exp", "run", "-S", "classifier_lr=0.002"], None),
}


def measure(command: list[str], folder: Path) -> float:
    """Seconds that a command takes. A failure is shown and ends the benchmark."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    console = Console(highlight=False)
    table = Table("command", "seconds", "goal", title=machine_name())
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        for name, (command, goal) in GOALS.items():
            with console.status(name):
                seconds = measure(command, clone)
            table.add_row(name, f"{seconds:.1f}", f"at most {goal}" if goal else "")
    console.print(table)


if __name__ == "__main__":
    main()
