"""Prompts and adapters: their published numbers of parameters, and the backbones that they refuse."""

from typing import Any

import pytest
import torch

from harness.parameters import PLAIN
from pipeline.backbone.timm_vit import create_model
from pipeline.errors import UserError
from pipeline.tuning.kind import find_kind


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("l2p", {"pool": 10, "length": 5, "top": 5, "pull": 0.1}, 46_080),
        ("dualprompt", {"general_blocks": 2, "expert_blocks": 3, "length": 5, "pull": 1.0}, 253_440),
        ("coda_prompt", {"blocks": 5, "components": 10, "length": 8, "orthogonality": 0.0}, 3_840_000),
        ("adapter", {"width": 64, "scale": 0.1}, 1_189_632),
    ],
)
def test_published_numbers_of_parameters(name: str, options: dict[str, Any], expected: int) -> None:
    """After ten tasks, of ViT-B/16; without the heads."""
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", num_classes=0)
    kind = find_kind(name)
    of = kind.options(**options)
    placed, grows, before = kind.places(model, of), kind.grows(of), dict(model.named_parameters())
    new = {key: tensor for key, tensor in placed.named_parameters() if key not in before}
    assert sum(tensor.numel() * (10 if key in grows else 1) for key, tensor in new.items()) == expected


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("l2p", "swin_tiny_patch4_window7_224", "tuning: l2p needs a ViT whose output is its CLS token"),
        ("l2p", "vit_base_patch16_rope_reg1_gap_256", "tuning: l2p needs a ViT whose output is its CLS token"),
        (
            "dualprompt",
            "swin_tiny_patch4_window7_224",
            r"the backbone's layers\.0\.blocks\.0 has no attention like that",
        ),
        ("coda_prompt", "beit_base_patch16_224", r"the backbone's blocks\.0 has no attention like that of timm's ViT"),
        ("adapter", "swin_tiny_patch4_window7_224", r"no block with a LayerNorm before its MLP"),
    ],
)
def test_other_backbones_are_refused_in_one_line(name: str, model: str, message: str) -> None:
    with torch.device("meta"):
        built = create_model(model, num_classes=0)
    kind = find_kind(name)
    small = PLAIN[name]
    assert isinstance(small, dict)
    with pytest.raises(UserError, match=message):
        kind.places(built, kind.options(**small))
