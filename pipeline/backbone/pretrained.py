"""The pretrained backbones that `backbone` in params.yaml can name: embedded ones, and those of timm."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.data.remote import Missing
from pipeline.errors import UserError
from pipeline.store import artifacts

PRETRAINED = Path("backbones/pretrained")  # stands for the weights that belong to the name, instead of a file


@dataclass(frozen=True)
class Embedded:
    """A safetensors file of this repository with its configuration in the metadata (store.artifacts.load_weights)."""

    path: Path
    sha256: str


EMBEDDED = {
    "glyph_vit": Embedded(
        Path("backbones/glyph_vit/weights.safetensors"),
        "77128354976046a3b72e84dcf7466d150d78a3fe704adc7de85950534508c97a",
    ),
}


def missing_weights(name: str, weights: Path) -> list[Missing]:
    """The file of weights to be downloaded, if any. Raises UserError for an unknown name."""
    if name in EMBEDDED or weights != PRETRAINED:
        return []
    from pipeline.backbone import timm_weights  # noqa: PLC0415  (as below)

    return timm_weights.missing(name, embedded=list(EMBEDDED))


def fetch_backbone(name: str, weights: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration (pipeline.backbone.build.build_backbone) of an embedded backbone or of a timm model.

    weights: a local file for the timm model, or PRETRAINED. Raises UserError for an unknown name, a missing file or
    weights that are not the model's.
    """
    if name not in EMBEDDED:
        from pipeline.backbone import timm_weights  # noqa: PLC0415  (takes seconds; embedded backbones do not need it)

        return timm_weights.fetch(name, None if weights == PRETRAINED else weights, embedded=list(EMBEDDED))
    if weights != PRETRAINED:
        raise UserError(f"params.yaml: backbone {name!r} has its own weights: set backbone_weights: {PRETRAINED}")
    file = EMBEDDED[name]
    try:
        content = file.path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file.path} is missing: `git restore {file.path}` brings it back") from None
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UserError(
            f"{file.path} does not match its SHA-256 in pipeline/backbone/pretrained.py: `git restore {file.path}`, "
            "or enter the SHA-256 of the new weights there"
        )
    return artifacts.load_weights(file.path, is_checked=True)
