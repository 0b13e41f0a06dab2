"""The parts of timm that this project uses, importable with a CPU-only torch, too."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from torch import Tensor

from pipeline.machine import torchvision_schemas  # noqa: F401  (before timm, which imports torchvision)

# isort: split
from timm import create_model, is_model, list_models
from timm.models import _builder
from timm.models.vision_transformer import VisionTransformer

__all__ = ["VisionTransformer", "create_model", "create_with_filter", "is_model", "list_models"]

State = dict[str, Tensor]


def create_with_filter(name: str, **arguments: object) -> tuple[Any, Callable[[State], State]]:
    """A timm model with random weights, and the filter that turns its authors' checkpoint into its state dict.

    Every family has such a filter, with settings that depend on the model's name. timm passes it only to the function
    that loads pretrained weights, so this replaces that function while the model is built.
    """
    caught: dict[str, Any] = {}

    def load(model: object, *, filter_fn: Callable[[State, object], State] | None, **_: object) -> None:
        caught.update(model=model, filter_fn=filter_fn)

    with mock.patch.object(_builder, "load_pretrained", load):
        model = create_model(name, pretrained=True, **arguments)
    assert caught["model"] is model, "timm builds this model in another way"
    filter_fn = caught["filter_fn"]
    return model, lambda state: filter_fn(state, model) if filter_fn else state
