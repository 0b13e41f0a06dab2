"""One module a DVC stage, run as `python -m stages.NAME`: parameters -> load -> one call -> save."""

import importlib.util
import sys

if importlib.util.find_spec("torch") is None:
    sys.exit(
        f"error: {sys.executable} has no torch: activate the project's environment first (source .venv/bin/activate), "
        "or build it with `make install`"
    )
