"""The device that computes tensors, and the settings that make its results repeatable."""

import ctypes
import os
from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def compute_device() -> torch.device:
    """The GPU if there is one, else the CPU; the environment variable DEVICE overrides this.

    Also makes torch deterministic and lets this process keep the memory it frees. The device is not a DVC parameter, so
    that artifacts made on one machine stay valid on another. Raises UserError if the device does not exist.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA needs this to be deterministic
    torch.use_deterministic_algorithms(True)
    # No code here reads uninitialised memory, so do not fill it: that cost 3 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False  # PRECISION=fp32 means float32 in convolutions, too
    keep_freed_memory()
    name = os.environ.get("DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a device that this torch or machine lacks
        reason = str(error).splitlines()[0]
        raise UserError(f"DEVICE={name!r} cannot be used: {reason}: unset it, or set DEVICE=cpu") from None


def keep_freed_memory() -> None:
    """Let glibc keep the memory that one step frees for the next.

    Otherwise it returns every large block to the system and gets it back as pages that must be cleared one by one. That
    took a third of the time of a ViT-S at 224 pixels on two cores (docs/decisions.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, -1)  # never return memory
        mallopt(_M_MMAP_MAX, 0)  # map no block separately


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def compute_precision(device: torch.device) -> torch.dtype:
    """The type for matrix products: bfloat16 on a GPU that supports it, else float32. PRECISION overrides this.

    This is not a DVC parameter either. Tuned parameters, their gradients and the features are always float32. Raises
    UserError for an unknown name.
    """
    default = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    name = os.environ.get("PRECISION", default)
    if name not in PRECISIONS:
        raise UserError(f"PRECISION={name!r} is unknown: unset it, or choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def precise(device: torch.device) -> torch.dtype:
    """The most precise float type of the device: float64, except on Apple's GPUs, which lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device. A GPU copies it in the background."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetch(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copy tensors of one device to the CPU, each as soon as it arrives; wait for a GPU once, after the last one."""
    fetched, device = [], torch.device("cpu")
    for tensor in tensors:
        device = tensor.device
        fetched.append(tensor.to("cpu", non_blocking=tensor.is_cuda))  # into pinned memory, in the background
    synchronise(device)
    return fetched


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
