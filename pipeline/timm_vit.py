"""timm's VisionTransformer, importable beside a CPU-only torch too."""

from pipeline import torchvision_schemas  # noqa: F401, I001  (before timm, which imports torchvision)
from timm.models.vision_transformer import VisionTransformer

__all__ = ["VisionTransformer"]
