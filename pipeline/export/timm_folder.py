"""The one model of all tasks as an ordinary timm checkpoint: config.json with label_names, model.safetensors."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.backbone.timm_vit import create_model
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.export.one_model import check_plain, check_same, samples, single
from pipeline.inference.learner import Learner
from pipeline.prediction.finished import Finished

FORM = "a timm checkpoint"
_ANY_VIT = "vit_tiny_patch16_224"  # a name that timm knows, for a Vision Transformer that is given by its sizes


def write(folder: Path, finished: Finished, learner: Learner, target: Path) -> None:
    """Write the files into `folder`, load them with timm, and compare. target: the folder's name in messages.

    Raises UserError for a learner that is not one model with a linear head.
    """
    if learner.method.chooses:
        raise UserError(
            f"{FORM} holds one model, and this learner chooses among those of {len(finished.tasks)} tasks: choose "
            "--format learner or onnx, or make one model (`dvc exp run -S selection=average -S "
            "classifier=carried_gaussians`)"
        )
    encoder = check_plain(finished, learner, FORM, hidden=False)
    backbone, tuned = single(encoder, finished, FORM)
    state = backbone.model.state_dict() | dict(tuned)
    model = _with_classes(finished, state)
    from timm.models import save_for_hf  # noqa: PLC0415  (with timm, which create_model has imported in its own way)

    size = finished.settings.image_size
    mean, std = (statistic.flatten().tolist() for statistic in (backbone.mean.cpu(), backbone.std.cpu()))
    data = {"input_size": (3, size, size), "mean": mean, "std": std, "interpolation": "bicubic", "crop_pct": 1.0}
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": finished.classes, "pretrained_cfg": {**data, "crop_mode": "center"}},
        safe_serialization=True,
        data_config=data,
    )
    pixels = samples(size)
    loaded = create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        found = loaded(backbone.prepare(pixels).cpu()).softmax(1)
    check_same(learner.predict(Images.of_pixels(pixels)).logits.softmax(1), found, target, FORM)


def _with_classes(finished: Finished, state: dict[str, Tensor]) -> torch.nn.Module:
    """The timm model with the tuned parameters, and the head as its classifier."""
    head, config = finished.parts.head, finished.parts.config
    name, arguments = config.get("timm", _ANY_VIT), config.get("arguments", config.get("architecture", {}))
    model = create_model(name, pretrained=False, num_classes=len(head.bias), **arguments)
    size = finished.settings.image_size
    if (size, size) != tuple(model.patch_embed.img_size):
        model.set_input_size(size)
    found = model.get_classifier()
    layers = found if isinstance(found, tuple | list) else [found]
    wrong = model.load_state_dict({key: tensor.cpu() for key, tensor in state.items()}, strict=False)
    classifier = {id(tensor) for layer in layers for tensor in layer.parameters()}
    left = [key for key in wrong.missing_keys if id(model.get_parameter(key)) not in classifier]
    if wrong.unexpected_keys or left or not all(isinstance(layer, torch.nn.Linear) for layer in layers):
        culprit = (*wrong.unexpected_keys, *left, "the classifier")[0]
        raise UserError(f"timm's {name} with classes differs from the backbone in {culprit}: choose --format learner")
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(head.weight)
            layer.bias.copy_(head.bias)
    result: torch.nn.Module = model.eval()
    return result
