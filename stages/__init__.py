"""One module per DVC stage, run as `python -m stages.NAME`: parameters -> load -> one call -> save."""

import pipeline  # noqa: F401  (says what to do in the wrong environment)

# Before the seconds that importing torch takes: a stage that DVC runs ends with it, and remembers its own code.
from pipeline.runtime import code, orphans  # noqa: F401

orphans.end_with_dvc()
