"""Where tensors are computed, and what makes the numbers repeatable there."""

import ctypes
import os
from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def compute_device() -> torch.device:
    """The GPU where there is one, else the CPU; the environment variable DEVICE overrides. Makes torch deterministic,
    and has this process keep the memory that it frees.

    Not a DVC parameter: artifacts made on one machine stay valid on another. Raises UserError for a device that is not
    there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA needs to be deterministic
    torch.use_deterministic_algorithms(True)
    # Fresh memory, which nothing reads here, need not be filled: that cost 3 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False  # PRECISION=fp32 is float32, in convolutions too
    keep_freed_memory()
    name = os.environ.get("DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an unknown name; a device that this torch or machine lacks
        reason = str(error).splitlines()[0]
        raise UserError(f"DEVICE={name!r} cannot be used: {reason}: unset it, or DEVICE=cpu") from None


def keep_freed_memory() -> None:
    """Let glibc keep for the next step what this one frees.

    It would give every large piece back to the system, and get it again as pages to be cleared one by one: that took a
    third of the time of a ViT-S at 224 pixels on two cores (docs/decisions.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        mallopt(_M_MMAP_MAX, 0)  # no piece is mapped by itself


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def compute_precision(device: torch.device) -> torch.dtype:
    """bfloat16 for the matrix products of a GPU that has it, else float32; the variable PRECISION overrides.

    No DVC parameter either. What is tuned, its gradients and the features are float32 in any case. Raises UserError for
    an unknown name.
    """
    default = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    name = os.environ.get("PRECISION", default)
    if name not in PRECISIONS:
        raise UserError(f"PRECISION={name!r} is unknown: unset it, or choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def precise(device: torch.device) -> torch.dtype:
    """The finest floats of the device: double precision, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device; a GPU copies it while the program goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetch(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors of one device on the CPU, each taken as it comes; a GPU is waited for once, after the last of them."""
    fetched, device = [], torch.device("cpu")
    for tensor in tensors:
        device = tensor.device
        fetched.append(tensor.to("cpu", non_blocking=tensor.is_cuda))  # into pinned memory, while the program goes on
    synchronise(device)
    return fetched


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
