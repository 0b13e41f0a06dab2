"""What this project uses of timm, importable beside a CPU-only torch too."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub need not be told what is installed here

from pipeline import torchvision_schemas  # noqa: F401, I001  (before timm, which imports torchvision)
from timm import create_model, is_model, list_models
from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer

__all__ = ["VisionTransformer", "create_model", "is_model", "list_models", "load_state_dict"]
