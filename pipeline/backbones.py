"""The pretrained backbones that `backbone` in params.yaml can name, each a file of weights with a known hash."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError


@dataclass(frozen=True)
class Weights:
    """Safetensors with the configuration in their metadata (pipeline.artifacts.load_weights)."""

    path: Path
    sha256: str


BACKBONES = {
    "glyph_vit": Weights(
        Path("backbones/glyph_vit/weights.safetensors"),
        "77128354976046a3b72e84dcf7466d150d78a3fe704adc7de85950534508c97a",
    ),
}


def fetch_backbone(name: str) -> bytes:
    """The content of a backbone's file. Raises UserError for an unknown name, a missing file or another content."""
    if name not in BACKBONES:
        raise UserError(f"params.yaml: backbone {name!r} is unknown: choose one of {', '.join(BACKBONES)}")
    weights = BACKBONES[name]
    try:
        content = weights.path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{weights.path} is missing: `git restore {weights.path}` brings it back") from None
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise UserError(
            f"{weights.path} is not the file that pipeline/backbones.py names: `git restore {weights.path}`, "
            "or enter the SHA-256 of the new weights there"
        )
    return content
