"""How many of the machine's cores this process may use."""

import os


def usable_cores() -> int:
    """At least 1: fewer than the machine has under `taskset` or in a Slurm job. macOS has no such limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
