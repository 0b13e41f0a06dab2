"""The frozen ViT, and the LayerNorms that a task puts into it.

A task's LayerNorms are tensors under timm's own names (`blocks.3.norm1.weight`). They replace the parameters of the
unmodified timm model for one call (`torch.func.functional_call`); nothing of the model is copied or subclassed, so any
timm VisionTransformer works.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.machine.device import compute_precision, fetch, send
from pipeline.machine.devices import part_of_images, put_together

LayerNorms = dict[str, Tensor]  # scale and bias of the LayerNorms that are tuned, [D] each
Normalize = Literal["pretrained", "none"]
INFERENCE_BATCH = 256


@dataclass(frozen=True)
class Backbone:
    """A frozen ViT without head, and what its input must look like."""

    model: VisionTransformer
    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]
    image_size: int
    precision: torch.dtype = torch.float32  # of matrix products

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.mean.device

    def pretrained(self, names: Iterable[str]) -> LayerNorms:
        """A copy of the pretrained values of these parameters, on the CPU."""
        return {name: self.model.get_parameter(name).detach().cpu().clone() for name in names}

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 images [B, H, W, 3] as the model's input: float32 [B, 3, S, S] on its device."""
        floats = send(images, self.device).permute(0, 3, 1, 2).float().div_(255)
        if floats.shape[2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            floats = functional.interpolate(floats, size, mode="bilinear", antialias=True, align_corners=False)
        return floats.sub_(self.mean).div_(self.std)

    def forward(self, inputs: Tensor, layernorms: Mapping[str, Tensor]) -> Tensor:
        """CLS output [B, D] of the model with these LayerNorms in place of its own; {} leaves it pretrained."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            # No ViT ties weights: to look for some took 0.3 ms a step.
            output: Tensor = functional_call(self.model, dict(layernorms), (inputs,), tie_weights=False)
        return output.float()

    @torch.inference_mode()
    def encode(self, images: Images, layernorms: Mapping[str, Tensor]) -> Tensor:
        """CLS outputs [N, D], on the CPU, of N images: the query pass with no LayerNorms given, the tuned pass with a
        task's.
        """
        part = part_of_images(len(images), INFERENCE_BATCH)
        outputs = fetch(self.outputs(images[part], layernorms))
        features = torch.cat(outputs) if outputs else torch.empty(0, self.model.num_features)
        return put_together(features, len(images), INFERENCE_BATCH)

    def outputs(self, images: Images, layernorms: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """CLS outputs [B, D] on the device, batch by batch."""
        on_device = {name: send(tensor, self.device) for name, tensor in layernorms.items()}
        for inputs in self.inputs(images):
            with torch.inference_mode():
                output = self.forward(inputs, on_device)
            yield output

    def inputs(self, images: Images) -> Iterator[Tensor]:
        """The images prepared, [B, 3, S, S] on the device, batch by batch."""
        for pixels in images.batches(torch.arange(len(images)).split(INFERENCE_BATCH), self.image_size):
            yield self.prepare(pixels)

    def flops(self) -> int:
        """Floating-point operations of one forward pass of one image, two for each multiply-add of a matrix product."""
        # The fused attention of the CPU is unknown to the counter: let attention be plain matrix products.
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.model(torch.zeros(1, 3, self.image_size, self.image_size, device=self.device))
        return int(counter.get_total_flops())


def build_backbone(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    image_size: int,
    normalize: Normalize,
    device: torch.device,
) -> Backbone:
    """The ViT of `config` with `weights`, frozen, without head.

    config: `mean`, `std`, and `timm`, the name of a timm model, with its `arguments`, if any; or `architecture`, the
    arguments of timm's VisionTransformer.

    `normalize`: by the mean and deviation that the weights expect, or not at all, as the authors' release of arXiv
    2308.09610 does. Another `image_size` than the native one resamples the position embeddings. Raises UserError where
    the weights do not fit or the patches do not tile the image.
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
    return Backbone(model, mean, std, image_size, compute_precision(device))
