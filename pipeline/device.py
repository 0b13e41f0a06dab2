"""Where tensors are computed, and what makes the numbers repeatable there."""

import os

import torch


def compute_device() -> torch.device:
    """The GPU where there is one, else the CPU; the environment variable DEVICE overrides. Makes torch deterministic.

    Not a DVC parameter: artifacts made on one machine stay valid on another.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA needs to be deterministic
    torch.use_deterministic_algorithms(True)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get("DEVICE", default))
