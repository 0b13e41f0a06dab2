"""The process of a stage: it keeps the memory that it frees, and uses no more cores than it may."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.experiments import queue, sweep
from pipeline.machine.cores import usable_cores

# In a process and its first thread, as stages compute: the threads of pytest-xdist have heaps of their own.
PAGES_OF_FREED_MEMORY = """
import resource
import torch
from pipeline.machine.device import compute_device

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

compute_device()
torch.ones(2**24)  # 64 MiB, more than glibc would keep
before = pages()
for _ in range(10):
    torch.ones(2**24)
print((pages() - before) * resource.getpagesize() / 2**26)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    output = subprocess.check_output([sys.executable, "-c", PAGES_OF_FREED_MEMORY], text=True)
    assert float(output) < 8  # of ten, in fresh pages; small pieces may lie where one was


def test_a_sweep_uses_no_more_cores_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SimpleNamespace(environment={"PATH": os.environ["PATH"]})
    monkeypatch.setattr("pipeline.runtime.stage_server.start", lambda _: server)
    monkeypatch.setattr(queue, "start_workers", lambda _: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for cores, jobs, threads in ((1, 1, 1), (2, 2, 1), (16, 4, 4)):  # as under taskset, or in a Slurm job
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.setenv(name, "")  # so that what the sweep sets is undone
            del os.environ[name]
        monkeypatch.setenv("DEVICE", "cpu")
        assert (usable_cores(), sweep.default_jobs()) == (cores, jobs)
        sweep._start(jobs)
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == (str(threads),) * 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 64, "macOS"
