"""The frozen ViT, and the tensors that a task puts into it.

A task's tuned tensors are named by their places in the model (`blocks.3.norm1.weight`). They replace the parameters of
the timm model for one call (`torch.func.functional_call`). Nothing of the model is copied or subclassed, so any timm
VisionTransformer works. This module does not import timm; pipeline.backbone.build does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbone.vectors import Vectors
from pipeline.data.images import Images
from pipeline.layout import Layout
from pipeline.machine.device import fetch, send
from pipeline.machine.devices import part_of_images, put_together

if TYPE_CHECKING:
    from pipeline.backbone.timm_vit import VisionTransformer

Normalize = Literal["pretrained", "none"]
Tuned = dict[str, Tensor]  # name of the place in the model -> what one task has learned there
INFERENCE_BATCH = 256


@dataclass(frozen=True)
class Folding:
    """How the plain model can compute what the model with places for tuned tensors computes."""

    model: "VisionTransformer"
    # A task's tensors -> parameters of that model, with which it computes the same as the model with places.
    fold: Callable[[Mapping[str, Tensor]], Tuned]


@dataclass(frozen=True)
class Backbone:
    """A frozen ViT without head, and how its input is prepared."""

    model: "VisionTransformer"
    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]
    image_size: int
    precision: torch.dtype = torch.float32  # of matrix products
    folding: Folding | None = None  # for inference, where a place costs each image more than its tensors cost a task
    vectors: Layout | None = None  # what `features` reads; None: the model's own output

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.mean.device

    @property
    def layout(self) -> Layout:
        """How a feature is divided into vectors."""
        return self.vectors or Layout(self.model.num_features)

    def pretrained(self, names: Iterable[str]) -> Tuned:
        """A copy of the pretrained values of these parameters, on the CPU."""
        return {name: self.model.get_parameter(name).detach().cpu().clone() for name in names}

    def prepare(self, images: Tensor) -> Tensor:
        """Turn uint8 images [B, H, W, 3] into the model's input: float32 [B, 3, S, S] on its device."""
        floats = send(images, self.device).permute(0, 3, 1, 2).float().div_(255)
        if floats.shape[2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            floats = functional.interpolate(floats, size, mode="bilinear", antialias=True, align_corners=False)
        return floats.sub_(self.mean).div_(self.std)

    def forward(self, inputs: Tensor, tuned: Mapping[str, Tensor]) -> Tensor:
        """The model's own output [B, D] with these tensors in their places; {} leaves it pretrained."""
        return self._called(self.model, inputs, dict(tuned))

    def features(self, inputs: Tensor, tuned: Mapping[str, Tensor]) -> Tensor:
        """The feature [B, V D], of the same pass; its first D numbers are the model's own output."""
        if self.vectors is None:
            return self.forward(inputs, tuned)
        reading = Vectors(self.model, self.vectors)
        return self._called(reading, inputs, {f"model.{name}": tensor for name, tensor in tuned.items()})

    def _called(self, model: nn.Module, inputs: Tensor, tensors: Tuned) -> Tensor:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            # No ViT ties weights: searching for tied weights took 0.3 ms per step.
            output: Tensor = functional_call(model, tensors, (inputs,), tie_weights=False)
        return output.float()

    @torch.inference_mode()
    def at_inference(self, tuned: Mapping[str, Tensor]) -> tuple["Backbone", Tuned]:
        """The model for images of one task, and its tensors on the device: folded into the weights, if the kind can."""
        on_device = {name: send(tensor, self.device) for name, tensor in tuned.items()}
        if self.folding is None:
            return self, on_device
        return replace(self, model=self.folding.model, folding=None), self.folding.fold(on_device)

    @torch.inference_mode()
    def encode(self, images: Images, tuned: Mapping[str, Tensor]) -> Tensor:
        """Features [N, V D] of N images, on the CPU. Without tensors this is a query pass, else a tuned pass."""
        part = part_of_images(len(images), INFERENCE_BATCH)
        outputs = fetch(self.outputs(images[part], tuned))
        features = torch.cat(outputs) if outputs else torch.empty(0, self.layout.size)
        return put_together(features, len(images), INFERENCE_BATCH)

    def outputs(self, images: Images, tuned: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Features [B, V D] on the device, batch by batch."""
        backbone, tensors = self.at_inference(tuned)
        for inputs in self.inputs(images):
            with torch.inference_mode():
                output = backbone.features(inputs, tensors)
            yield output

    def inputs(self, images: Images) -> Iterator[Tensor]:
        """The images prepared, [B, 3, S, S] on the device, batch by batch."""
        for pixels in images.batches(torch.arange(len(images)).split(INFERENCE_BATCH), self.image_size):
            yield self.prepare(pixels)

    def flops(self, tuned: Mapping[str, Tensor]) -> int:
        """Operations of one pass of one image at inference, in floating point; a multiply-add counts as two."""
        # The counter does not know the CPU's fused attention, so use plain matrix products for attention.
        image = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
        backbone, tensors = self.at_inference(tuned)
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            backbone.features(image, tensors)
        return int(counter.get_total_flops())
