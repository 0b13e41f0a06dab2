"""`tuning: full`: every parameter of the backbone. One model is kept for all tasks: that of the newest."""

import torch

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import NoOptions
from pipeline.tuning.kind import Kind


def start(backbone: Backbone, options: NoOptions, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """The whole model of the task before, or the pretrained one."""
    del options, images, generator
    return previous or backbone.pretrained(name for name, _ in backbone.model.named_parameters())


KIND = Kind(
    options=NoOptions,
    start=start,
    sentence="Each task tunes the whole backbone; only the newest model is kept.",
    size=0.02,  # a weight of a ViT
    keeps="newest",
)
