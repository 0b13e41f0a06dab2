"""`tuning: layernorm`: scale and bias of the LayerNorms (arXiv 2308.09610), in place of the model's own."""

import torch

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.tuning.kind import Kind
from pipeline.tuning.norms import NormOptions, norm_parameters


def start(
    backbone: Backbone, options: NormOptions, previous: Tuned, images: Images, generator: torch.Generator
) -> Tuned:
    """The LayerNorms of the task before, or the pretrained ones, [D] each."""
    del images, generator
    return previous or backbone.pretrained(norm_parameters(backbone.model, options))


KIND = Kind(
    options=NormOptions,
    start=start,
    sentence="Each task tunes the scale and bias of the frozen backbone's LayerNorms.",
    scalable=True,
)
