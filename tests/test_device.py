"""The process of a stage keeps the memory that it frees."""

import ctypes
import subprocess
import sys

import pytest

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
