"""Records every operation of torch, forward and backward, with a digest of its result."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_UNWRITTEN = ("aten.empty", "aten.new_empty", "aten.resize")  # uninitialised memory


class Operation(NamedTuple):
    """The name of an operation, and the SHA-256 of its floating-point results."""

    name: str
    digest: str


class Recorder(TorchDispatchMode):
    """Records the operations that run within it."""

    def __init__(self) -> None:
        """Start with no operations."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Run an operation, and record it."""
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if not name.startswith(_UNWRITTEN):
            tensors = [t for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor)]
            if "attention" in name and "backward" not in name:
                tensors = tensors[:1]  # its other results contain padding that is never written
            self.operations.append(Operation(name, digest(tensors)))
        return result


def digest(tensors: Sequence[Tensor]) -> str:
    """SHA-256 of the bits of the floating-point tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.layout == torch.strided:
            bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(bits.numpy().tobytes())
    return found.hexdigest()


def operations(work: Callable[[], object]) -> list[Operation]:
    """The operations of `work`, in order."""
    recorder = Recorder()
    with recorder:
        work()
    return recorder.operations


def differing(one: Sequence[Operation], other: Sequence[Operation]) -> list[str]:
    """Names of the operations whose results differ between two runs. The first one causes the rest."""
    names = [a.name for a, b in zip(one, other, strict=False) if a != b]
    return names if len(one) == len(other) else [*names, f"{len(one)} operations, then {len(other)}"]
