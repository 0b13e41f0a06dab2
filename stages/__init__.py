"""One module a DVC stage, run as `python -m stages.NAME`: parameters -> load -> one call -> save."""

import os

import pipeline  # noqa: F401  (says what to do in the wrong environment)

# An OpenMP thread that waits spins for milliseconds by default. Beside any other busy process that made stage one eight
# times slower; with less spinning it loses nothing on an idle machine (docs/decisions.md). Read when torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# Before the seconds that importing torch takes: a stage that DVC runs ends with it, and remembers its own code.
from pipeline.runtime import code, orphans  # noqa: F401

orphans.end_with_dvc()
