"""Continual LayerNorm tuning (arXiv 2308.09610): the library that the stages call. Start with README.md."""

import importlib.util
import os
import sys

from pipeline import interrupt

if sys.argv[0] == "-m":  # Python is about to run a module of this repository; a notebook keeps its own Ctrl-C
    interrupt.end_at_once()
if os.name == "nt":
    sys.exit("error: this needs Linux or macOS (it forks and watches processes in the POSIX way): use WSL 2")
for _name in ("torch", "typer"):
    if importlib.util.find_spec(_name) is None:
        sys.exit(
            f"error: {sys.executable} has no {_name}: activate the project's environment first (source "
            ".venv/bin/activate), or build it with `make install`"
        )
