"""A ViT small enough for every test, and images for it."""

from typing import Any

import torch

from pipeline.backbone.timm_vit import VisionTransformer
from pipeline.backbone.vit import Backbone
from pipeline.tuning.norms import NormOptions, norm_parameters

TINY: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
TINY_CONFIG = {"architecture": TINY, "mean": [0.5] * 3, "std": [0.5] * 3}


def tiny_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a tiny ViT. They are larger than at initialisation, and its LayerNorms are no identity."""
    generator = torch.Generator().manual_seed(seed)
    state = VisionTransformer(**TINY, num_classes=0).state_dict()
    return {
        name: (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        + 0.2 * torch.randn(t.shape, generator=generator)
        for name, t in state.items()
    }


def pretrained_layernorms(backbone: Backbone) -> dict[str, torch.Tensor]:
    """The pretrained scale and bias of every LayerNorm."""
    return backbone.pretrained(norm_parameters(backbone.model, NormOptions(norms="all", parameters="both")))


def random_images(count: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    """uint8 noise [count, size, size, 3]."""
    return torch.randint(256, (count, size, size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def selector_state(keys: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state of the paper's selector with these keys [T, D]."""
    return {"prototypes": keys, "task": torch.arange(len(keys))}
