"""What this project uses of timm, importable beside a CPU-only torch too."""

from pipeline import torchvision_schemas  # noqa: F401, I001  (before timm, which imports torchvision)
from timm import create_model, is_model, list_models
from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer

__all__ = ["VisionTransformer", "create_model", "is_model", "list_models", "load_state_dict"]
