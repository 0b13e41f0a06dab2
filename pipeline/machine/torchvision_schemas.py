"""Makes torchvision importable with a CPU-only torch: import this module before it.

PyPI's torchvision is linked against the CUDA build of torch. With a CPU-only torch its compiled operators do not load.
Then `import torchvision`, and so `import timm`, fails with "operator torchvision::nms does not exist" while it
registers shape rules for two operators. Defining the schemas of these two first is enough for this project, which uses
no detection operators. If the compiled operators load, nothing is defined.
"""

import contextlib
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _operators_exist() -> bool:
    spec = importlib.util.find_spec("torchvision")
    origin = spec.origin if spec else None
    assert origin, "torchvision is a pinned dependency"
    for library in sorted(Path(origin).parent.glob("_C.*")):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(library))
    return hasattr(torch.ops.torchvision, "nms")


if not _operators_exist():
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # the definitions live as long as this name
    for _schema in _SCHEMAS:
        _LIBRARY.define(_schema)
