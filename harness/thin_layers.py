"""Factors and thin matrices to try: kinds with options, and tensors as at the start and as after some training."""

import torch

from harness.tiny import random_images
from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.tuning.kind import Kind, find_kind

IMAGES = Images.of_pixels(random_images(6))
D = 16  # width of the tiny ViT
RANK, ALPHA = 3, 2.0
CHOICES: dict[str, tuple[str, dict[str, object]]] = {
    "ia3": ("ia3", {}),
    "lora": ("lora", {"rank": RANK, "alpha": ALPHA, "mlp": False}),
    "lora of MLPs too": ("lora", {"rank": RANK, "alpha": ALPHA, "mlp": True}),
}


def chosen(choice: str) -> tuple[Kind, Record]:
    """A kind and its options."""
    name, values = CHOICES[choice]
    kind = find_kind(name)
    return kind, kind.options(**values)


def start_of(placed: Backbone, kind: Kind, options: Record, seed: int = 0) -> Tuned:
    """The start values of a first task."""
    return kind.start(placed, options, {}, IMAGES, torch.Generator().manual_seed(seed))


def somewhere(placed: Backbone, kind: Kind, options: Record, seed: int = 1, moved: float = 0.3) -> Tuned:
    """Tensors as after some training: the start, moved at random."""
    random = torch.Generator().manual_seed(seed)
    start = start_of(placed, kind, options)
    return {name: tensor + moved * torch.randn(tensor.shape, generator=random) for name, tensor in start.items()}
