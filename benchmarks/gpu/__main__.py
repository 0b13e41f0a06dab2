"""python -m benchmarks.gpu: lists missing packages, then measures (benchmarks.gpu.command)."""

import importlib
import os
import sys

from benchmarks.gpu.packages import REQUIRED, missing

if __name__ == "__main__":
    if lacking := missing(REQUIRED):
        names = " ".join(REQUIRED[name] for name in lacking)
        sys.exit(f"error: packages are missing: pip install {names} (without a network: docs/scaling.md)")
    os.environ |= {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # keep torch's messages out of the output
    importlib.import_module("benchmarks.gpu.command").run()
