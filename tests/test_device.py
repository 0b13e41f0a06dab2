"""The process of a stage keeps the memory that it frees."""

import ctypes
import resource

import pytest
import torch

from pipeline.device import compute_device


def faults() -> int:
    """Pages that this process was given so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    compute_device()
    torch.ones(2**24)  # 64 MiB, more than glibc would keep
    before = faults()
    for _ in range(3):
        torch.ones(2**24)
    assert faults() - before < 2**24 * 4 / resource.getpagesize() / 10  # else three times as many as a tensor has pages
