"""One module per DVC stage, run as `python -m stages.NAME`: read parameters, load, make one call, save."""

import os

import pipeline  # noqa: F401  (says what to do in the wrong environment)

# By default a waiting OpenMP thread spins for milliseconds. Next to another busy process, that made stage one eight
# times slower. Less spinning costs nothing on an idle machine (docs/decisions.md). torch reads this when it loads.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# Done before torch is imported, which takes seconds: record the code this stage runs, and end when DVC ends.
from pipeline.runtime import code, orphans  # noqa: F401

orphans.end_with_dvc()
