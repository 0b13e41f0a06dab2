"""Features of augmented views of a task's training images, from which stage two may learn."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.data.augment import augment
from pipeline.data.images import Images
from pipeline.inference.encoder import Encoder, ViewFeatures
from pipeline.machine.device import fetch


def encode_views(  # noqa: PLR0913
    backbone: Backbone,
    encoder: Encoder,
    images: Images,
    unchanged: ViewFeatures,
    count: int,
    generator: torch.Generator,
    *,
    min_crop: float,
    flip: bool,
) -> ViewFeatures:
    """Features of `count` views of each of N images; unchanged: [N, D] of the images as they are.

    With crops, every view is a random one. Without, an image has two views, itself and, with `flip`, its mirror image,
    which alone is run. View v of image n is mirrored where n + v is odd, so each view mixes both. Without either, the
    only view is the image.
    """

    def encode(change: Callable[[Tensor], Tensor]) -> ViewFeatures:
        return _encode(backbone, images, lambda inputs: encoder.view_features(change(inputs)))

    if min_crop < 1:
        views = [encode(lambda inputs: augment(inputs, generator, min_crop=min_crop, flip=flip)) for _ in range(count)]
        return _stacked(views)
    if not flip:
        return _stacked([unchanged])
    mirrored = encode(lambda inputs: inputs.flip(3))
    image = torch.arange(len(images))
    order = (torch.arange(count)[:, None] + image) % 2  # [V, N]
    both = _stacked([unchanged, mirrored])
    return ViewFeatures(both.selected[order, image], None if both.previous is None else both.previous[order, image])


def _encode(backbone: Backbone, images: Images, encode: Callable[[Tensor], ViewFeatures]) -> ViewFeatures:
    """Features [N, D] of one view of each image."""
    with torch.inference_mode():
        batches = [encode(inputs) for inputs in backbone.inputs(images)]
    selected, previous = torch.cat(fetch(batch.selected for batch in batches)), None
    if batches[0].previous is not None:
        previous = torch.cat(fetch(batch.previous for batch in batches if batch.previous is not None))
    return ViewFeatures(selected, previous)


def _stacked(views: list[ViewFeatures]) -> ViewFeatures:
    """[V, N, D] of each."""
    previous = [view.previous for view in views if view.previous is not None]
    return ViewFeatures(
        torch.stack([view.selected for view in views]), torch.stack(previous) if len(previous) == len(views) else None
    )
