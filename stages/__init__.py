"""One module a DVC stage, run as `python -m stages.NAME`: parameters -> load -> one call -> save."""

import importlib.util
import os
import sys

if importlib.util.find_spec("torch") is None:
    sys.exit(
        f"error: {sys.executable} has no torch: activate the project's environment first (source .venv/bin/activate), "
        "or build it with `make install`"
    )

# An OpenMP thread that waits spins for milliseconds by default. Beside any other busy process that made stage one eight
# times slower; with less spinning it loses nothing on an idle machine (docs/decisions.md). Read when torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# Before the seconds that importing torch takes: a stage that DVC runs ends with it, and remembers its own code.
from pipeline import orphans, unchanged  # noqa: F401

orphans.end_with_dvc()
