"""Continual LayerNorm tuning (arXiv 2308.09610): the library behind the stages. Start with README.md."""

import importlib.util
import os
import sys

from pipeline import interrupt

# Libraries read these when they are loaded, in this process or in those that it starts.
# An OpenMP thread that waits spins for milliseconds by default. Beside any other busy process that made stage one eight
# times slower; with less spinning it loses nothing on an idle machine (docs/decisions.md).
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub need not be told what is installed here

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
