"""One module per DVC stage, run as `python -m stages.NAME`: read parameters, load, make one call, save."""

import pipeline  # noqa: F401  (says what to do in the wrong environment)

# Done before torch is imported, which takes seconds: record the code this stage runs, and end when DVC ends.
from pipeline.runtime import code, orphans  # noqa: F401

orphans.end_with_dvc()
