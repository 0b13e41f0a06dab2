"""DVC as ever, but its stages share one import of torch and timm: python -m pipeline.dvc repro, ... exp run -S lr=0.02.

Starting Python and importing takes longer than most stages of a small pipeline compute. The stages are the same, and so
are their results; only who starts them differs (pipeline.runtime.stage_server).
"""

import os
import signal
import subprocess
import sys

from pipeline import interrupt
from pipeline.errors import UserError
from pipeline.runtime import stage_server


def main() -> int:
    """Run DVC with this command's arguments: its exit code, or 130 after Ctrl-C."""
    try:
        server = stage_server.start(os.environ)
    except UserError as error:
        sys.exit(f"error: {error}")
    try:
        return run_dvc(server.environment)
    finally:
        stage_server.stop(server)


def run_dvc(environment: dict[str, str]) -> int:
    """Ctrl-C reaches DVC and its stage, too: DVC says in a line that both have ended; this process only waits."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:  # as in the background of a script
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
