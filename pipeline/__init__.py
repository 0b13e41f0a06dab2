"""Continual LayerNorm tuning (arXiv 2308.09610): the library that the stages call. See README.md."""

import importlib.util
import sys

for _name in ("torch", "typer"):
    if importlib.util.find_spec(_name) is None:
        sys.exit(
            f"error: {sys.executable} has no {_name}: activate the project's environment first (source "
            ".venv/bin/activate), or build it with `make install`"
        )
