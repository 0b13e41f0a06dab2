"""Builds a frozen ViT from weights and their configuration. Imports timm, which takes seconds; few stages need it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.backbone.vectors import layout_of
from pipeline.backbone.vit import Backbone, Normalize
from pipeline.errors import UserError
from pipeline.machine.device import compute_device, compute_precision
from pipeline.store import artifacts


def load_backbone(*, image_size: int, normalize: Normalize, features: str) -> Backbone:
    """The stored backbone, on the device of this process. Raises UserError as build_backbone does."""
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    return build_backbone(
        weights, config, image_size=image_size, normalize=normalize, device=compute_device(), features=features
    )


def build_backbone(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    image_size: int,
    normalize: Normalize,
    device: torch.device,
    features: str = "cls",
) -> Backbone:
    """The ViT of `config` with `weights`, frozen, without head.

    config: `mean` and `std`; and either `timm`, the name of a timm model with optional `arguments`, or `architecture`,
    the arguments of timm's VisionTransformer.

    normalize: with the mean and standard deviation that the weights expect, or not at all, as in the authors' release
    of arXiv 2308.09610. If `image_size` differs from the native one, the position embeddings are resampled. Raises
    UserError if the weights do not fit, the patches do not tile the image, or the model cannot give these `features`.
    """
    if "timm" in config:
        model = create_model(config["timm"], pretrained=False, num_classes=0, **config.get("arguments", {}))
    else:
        model = VisionTransformer(**config["architecture"], num_classes=0)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"the backbone's weights do not fit its configuration: {' '.join(str(error).split())}"
        ) from None
    if (image_size, image_size) != tuple(model.patch_embed.img_size):
        patch = model.patch_embed.patch_size[0]
        if image_size % patch:
            raise UserError(
                f"params.yaml: image_size must be a multiple of the backbone's patch size {patch}, found {image_size}"
            )
        model.set_input_size(image_size)
    model.eval().requires_grad_(False).to(device)
    statistics = (config["mean"], config["std"]) if normalize == "pretrained" else ([0.0] * 3, [1.0] * 3)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in statistics)
    vectors = None if features == "cls" else layout_of(model, features)
    return Backbone(model, mean, std, image_size, compute_precision(device), vectors=vectors)
