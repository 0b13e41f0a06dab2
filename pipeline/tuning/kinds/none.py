"""`tuning: none`: nothing is tuned. The feature of an image is the frozen backbone's output."""

import torch

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import NoOptions
from pipeline.tuning.kind import Kind


def start(backbone: Backbone, options: NoOptions, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """No tensors."""
    del backbone, options, previous, images, generator
    return {}


KIND = Kind(
    options=NoOptions,
    start=start,
    sentence="Nothing is tuned: features are those of the frozen backbone.",
    keeps="nothing",
)
