"""Run DVC with stages that share one import of torch and timm: python -m pipeline.dvc repro, ... exp run -S lr=0.02.

In a small pipeline, starting Python and importing libraries takes longer than most stages compute. Here a server that
has imported everything starts the stages (pipeline.runtime.stage_server). The stages and their results are the same as
with plain DVC.
"""

import os
import signal
import subprocess
import sys

from pipeline import interrupt
from pipeline.errors import UserError
from pipeline.runtime import stage_server


def main() -> int:
    """Run DVC with this command's arguments. Returns its exit code, or 130 after Ctrl-C."""
    try:
        server = stage_server.start(os.environ)
    except UserError as error:
        sys.exit(f"error: {error}")
    try:
        return run_dvc(server.environment)
    finally:
        stage_server.stop(server)


def run_dvc(environment: dict[str, str]) -> int:
    """Run DVC and wait. Ctrl-C reaches DVC and its stage directly; DVC reports their end in one line."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:  # a script's background job ignores Ctrl-C
        signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        code = subprocess.run(
            [sys.executable, "-m", "pipeline.runtime.dvc_process", *sys.argv[1:]], env=environment, check=False
        ).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return interrupt.EXIT_CODE if pressed else code


if __name__ == "__main__":
    with interrupt.quiet():
        exit_code = main()
    sys.exit(exit_code)
