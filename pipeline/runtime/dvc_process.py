"""The process of DVC itself. Ctrl-C ends it without a traceback, also during imports (pipeline.dvc starts it)."""

import sys

from dvc.cli import main

from pipeline import interrupt
from pipeline.runtime.orphans import end_with_parent

if __name__ == "__main__":
    sys.argv[0] = "dvc"  # what DVC writes into its lock file, and others then read
    end_with_parent()
    with interrupt.quiet():
        code = main(sys.argv[1:])  # which catches the interrupt itself where it can
    sys.exit(code)
