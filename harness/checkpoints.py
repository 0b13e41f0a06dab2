"""Small weights of timm models, for tests of checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.backbone.timm_vit import create_model

NAME = "test_vit"  # timm's smallest: patches of 16, 160 pixels
State = dict[str, Tensor]


def original(name: str = NAME, **arguments: Any) -> State:  # noqa: ANN401
    """Weights of a model with its head."""
    torch.manual_seed(1)
    state: State = create_model(name, num_classes=5, **arguments).state_dict()
    return state


def without_head(state: Mapping[str, Tensor]) -> State:
    """What is left of a state dict for a model without head."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("head")}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether names and values agree, bit for bit."""
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def others(state: Mapping[str, Tensor]) -> State:
    """The same names with other values."""
    return {name: tensor + 1 for name, tensor in state.items()}
