"""DVC as ever, but its stages share one import of torch and timm: python -m pipeline.dvc repro, ... exp run -S lr=0.02.

Starting Python and importing takes longer than most stages of a small pipeline compute. The stages are the same, and so
are their results; only who starts them differs (pipeline.stage_server).
"""

import os
import signal
import subprocess
import sys

from pipeline import stage_server
from pipeline.errors import UserError


def main() -> int:
    """Run DVC with this command's arguments: its exit code."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches DVC too, which ends its stage and itself
    try:
        server = stage_server.start(os.environ)
    except UserError as error:
        sys.exit(f"error: {error}")
    try:
        return subprocess.run(
            [sys.executable, "-m", "dvc", *sys.argv[1:]], env=server.environment, check=False
        ).returncode
    finally:
        stage_server.stop(server)


if __name__ == "__main__":
    sys.exit(main())
