"""Which learners a graph or a checkpoint can hold, and the check that it answers as the learner does."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.inference.learner import Learner
from pipeline.inference.selecting import SelectingEncoder
from pipeline.linear.head import Head
from pipeline.prediction.finished import Finished
from pipeline.store import artifacts
from pipeline.store.cumulative import row

_SAMPLES = 64
_HIDDEN = {"projection", "factors", "offsets", "unit"}  # what a graph computes beside weight and bias
_OTHERWISE = "choose --format learner"


def check_plain(finished: Finished, learner: Learner, form: str, *, hidden: bool) -> SelectingEncoder:
    """The encoder of a learner that consists of one or two passes and a head, and of nothing else.

    hidden: whether the head may have a hidden layer or a quadratic part, and read several blocks. Raises UserError,
    which names what cannot be expressed.
    """
    head, correction, encoder = finished.parts.head, finished.settings.correction, learner.encoder
    if correction != "none":
        raise UserError(f"correction: {correction} cannot be part of {form}: {_OTHERWISE}")
    if (setting := finished.settings.setting) != "class":
        raise UserError(f"setting: {setting} cannot be part of {form}: {_OTHERWISE}")
    plain = {"weight", "bias", "tasks"}  # without a setting that gives tasks, a row belongs to its class alone
    if head.classes is not None and torch.equal(head.classes, torch.arange(len(head.bias))):
        plain |= {"classes"}
    extra = [name for name, value in head._asdict().items() if name not in plain and value is not None]
    if type(head) is not Head or (extra and not (hidden and _HIDDEN.issuperset(extra))):
        raise UserError(
            f"the head of this classifier ({', '.join(extra) or type(head).__name__} beside weight and bias) cannot "
            f"be part of {form}: {_OTHERWISE}{'' if hidden else ' or onnx'}"
        )
    if type(encoder) is not SelectingEncoder:
        raise UserError(f"tuning: {finished.parts.bank.tuning} chooses in a way that {form} cannot hold: {_OTHERWISE}")
    width = encoder.tuned.layout.size if hidden else encoder.tuned.model.num_features
    needed = head.weight.shape[1]
    if head.projection is None and width != needed:
        raise UserError(f"the head takes features of {needed} numbers, of which {form} gives {width}: {_OTHERWISE}")
    return encoder


def single(encoder: SelectingEncoder, finished: Finished, form: str) -> tuple[Backbone, Mapping[str, Tensor]]:
    """The one model of all tasks: a backbone of timm's own parameters, and the values of those that were tuned."""
    tensors = row(encoder.bank, -1) if encoder.bank else {}
    backbone, tuned = encoder.tuned.at_inference(tensors)
    if unknown := sorted(tuned.keys() - dict(backbone.model.named_parameters()).keys()):
        raise UserError(
            f"tuning: {finished.parts.bank.tuning} has {unknown[0]}, which {form} cannot hold: {_OTHERWISE}"
        )
    if finished.parts.bank.kind.fold is None and backbone.model is not encoder.frozen.model:
        raise UserError(f"tuning: {finished.parts.bank.tuning} adds parts that {form} cannot hold: {_OTHERWISE}")
    return backbone, tuned


def samples(size: int) -> Tensor:
    """Pictures to compare on, uint8 [N, size, size, 3]: of the test set where it is here, and noise."""
    noise = torch.randint(256, (8, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    if not artifacts.TEST.exists():
        return noise
    images = Images.from_tensors(artifacts.load_tensors(artifacts.TEST))
    chosen = images[torch.linspace(0, len(images) - 1, min(_SAMPLES, len(images))).long()]
    pixels = chosen.pixels(size)
    if pixels.shape[1] != size:
        moved = torch.nn.functional.interpolate(pixels.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear")
        pixels = moved.round().to(torch.uint8).permute(0, 2, 3, 1)
    return torch.cat([pixels, noise])


def check_same(expected: Tensor, found: Tensor, folder: Path, form: str) -> None:
    """Raises UserError unless the exported model gives the same probabilities [N, C], up to 1e-4, and classes."""
    gap = float((expected - found).abs().max())
    sure = expected.topk(min(2, expected.shape[1]), dim=1).values
    decided = (sure[:, 0] - sure[:, -1] > 1e-4) | (expected.shape[1] == 1)
    if gap > 1e-4 or bool((expected.argmax(1) != found.argmax(1))[decided].any()):
        raise UserError(
            f"{folder} was not written: as {form}, this learner would answer differently (probabilities by {gap:.2g}): "
            f"{_OTHERWISE}"
        )
