"""How long the stages of an experiment worked, and on what machine. Timings go to a log, because results must be
reproducible byte for byte. It has a line of JSON per stage, in `.scratch/stages.jsonl` of the main repository,
whichever folder DVC runs the experiment in.
"""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOG = Path(".scratch/stages.jsonl")


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Log what runs inside as a stage's work, if DVC runs it for an experiment."""
    started = time.monotonic()
    yield
    if {"DVC_EXP_NAME", "DVC_STAGE", "DVC_ROOT"} <= os.environ.keys():
        line = {
            "experiment": os.environ["DVC_EXP_NAME"],
            "stage": os.environ["DVC_STAGE"],
            "seconds": round(time.monotonic() - started, 2),
            "environment": environment(),
        }
        with contextlib.suppress(OSError):  # the result is what counts
            log = Path(os.environ["DVC_ROOT"]) / LOG
            log.parent.mkdir(exist_ok=True)
            with log.open("a") as file:
                file.write(f"\n{json.dumps(line)}\n")  # a full disk or a kill may have cut off the line before


def environment() -> str:
    """Versions and device, in words."""
    torch = sys.modules.get("torch")
    parts = [f"Python {platform.python_version()}"]
    if torch:
        cuda = torch.cuda.is_available()
        threads = torch.get_num_threads()
        cpu = f"{platform.machine()} CPU, {threads} thread{'s' * (threads != 1)}"
        device = torch.cuda.get_device_name() if cuda else cpu
        parts += [f"torch {torch.__version__}", device]
    return ", ".join(parts)


def work_by_experiment(log: Path = LOG) -> dict[str, dict[str, Any]]:
    """Seconds of all stages that each experiment ran, the last run of each, and its environment."""
    if not log.exists():
        return {}
    stages: dict[str, dict[str, float]] = {}
    environments: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # empty, or cut off
            continue
        stages.setdefault(entry["experiment"], {})[entry["stage"]] = entry["seconds"]
        if "torch" in entry["environment"]:
            environments[entry["experiment"]] = entry["environment"]
    return {
        name: {"seconds": round(sum(seconds.values()), 1), "environment": environments.get(name)}
        for name, seconds in stages.items()
    }
