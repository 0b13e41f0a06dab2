"""Counts the images that run through the backbone."""

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from pipeline.backbone.timm_vit import VisionTransformer


class Counted:
    """Counts until the test ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin at 0."""
        self.images = 0
        forward = VisionTransformer.forward_features

        def counting(model: nn.Module, inputs: Tensor, *arguments: object, **named: object) -> Tensor:
            self.images += len(inputs)
            outputs: Tensor = forward(model, inputs, *arguments, **named)
            return outputs

        monkeypatch.setattr(VisionTransformer, "forward_features", counting)

    def of(self, act: Callable[[], object]) -> int:
        """The images of an action."""
        before = self.images
        act()
        return self.images - before
