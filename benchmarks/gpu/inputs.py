"""Part 6: how fast this machine's cores decode images, compared with how fast the model consumes them."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu.measuring import Measurement, Setup, figure
from benchmarks.gpu.vit import STATISTICS, TINY
from benchmarks.speed.input_path import input_rate, model_rate, packed_images, rate
from benchmarks.speed.ratios import Row
from pipeline.backbone.build import build_backbone
from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.machine.cores import usable_cores
from pipeline.machine.device import compute_device
from pipeline.tuning.norms import NormOptions, norm_parameters

TITLE = "From encoded images to features"
SIDE = 256  # pixels of the images


def measurements(setup: Setup) -> Iterator[Measurement]:
    """Decoding alone, models alone, and both at once."""
    with tempfile.TemporaryDirectory() as temporary:
        images = packed_images(Path(temporary), count=setup.size(768, 32), size=SIDE, suffix=".jpg")
        for name in ("vit_base_patch16_224", "vit_tiny_patch16_224"):
            yield Measurement(name, partial(speeds, setup, name, images))


def model_of(setup: Setup, name: str) -> Backbone:
    """A timm model with random weights; in miniature, a tiny model under the same name."""
    if setup.device == "cpu":
        model, config = VisionTransformer(**TINY, num_classes=0), {"architecture": TINY, **STATISTICS}
    else:
        model, config = create_model(name, num_classes=0), {"timm": name, **STATISTICS}
    size = setup.size(224, 32)
    return build_backbone(model.state_dict(), config, image_size=size, normalize="pretrained", device=compute_device())


def speeds(setup: Setup, name: str, images: Images) -> Iterator[Row]:
    """Images per second of each, and of features from encoded images."""
    backbone = model_of(setup, name)
    start = backbone.pretrained(norm_parameters(backbone.model, NormOptions(norms="all", parameters="both")))
    decoded = input_rate(images, backbone)
    consumed = model_rate(backbone, setup.size(4096, 64))
    both = rate(len(images), lambda: backbone.encode(images, start))
    yield figure(f"decoding JPEGs of {SIDE} px, beside {name}", decoded, "images/s", note=f"{usable_cores()} threads")
    yield figure(f"forward passes of {name}", consumed, "images/s", note=f"{backbone.precision}")
    yield figure(f"decoding / forward passes of {name}", decoded / consumed, "x images/s", goal=">= 1")
    yield figure(f"features of encoded images, {name}", both, "images/s")
    name = f"features of encoded images / the slower of decoding and model, {name}"
    yield figure(name, both / min(decoded, consumed), "x images/s", goal=">= 0.9")
