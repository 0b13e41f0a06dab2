"""What a task tunes: the contract that every file in `pipeline/tuning/kinds` fulfils.

A kind makes places for its tensors in the unmodified timm model, and says with which values they start: with these the
model is the pretrained one, exactly. Everything else is the same for all kinds: `functional_call` puts a task's tensors
into their places, the loop (pipeline.tuning.loop) trains them, a file per task keeps them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.parts import find_module

AnyModel = TypeVar("AnyModel", bound=nn.Module)


class NoOptions(Record):
    """Of a kind that leaves nothing to choose."""


def unmodified(model: AnyModel, options: Any) -> AnyModel:  # noqa: ANN401
    """The model as it is: for kinds that tune its own parameters."""
    del options
    return model


@dataclass(frozen=True)
class Kind:
    """What a task tunes. `options` is the record of the kind's own block in params.yaml."""

    options: type[Record]
    # (backbone with places, options, previous, images) -> where the tuning of a task begins. `previous` is what the
    # task before has learned; it is empty for the first task, and with `tuning_init: pretrained`.
    start: Callable[[Backbone, Any, Tuned, Images], Tuned]
    sentence: str  # for the report: what a task tunes
    # (model, options) -> the model with places for the tensors; the given one is left alone.
    places: Callable[[Any, Any], Any] = unmodified
    penalty: Callable[[nn.Module], Tensor] | None = None  # of the batch just run; added to the class loss
    # For a kind that sees the tensors of all tasks in one pass, [T, ...] each, and chooses by itself: the task of each
    # image of the batch just run, [B]. None: the selection says which task's tensors an image gets.
    chosen: Callable[[nn.Module], Tensor] | None = None
    size: float = 1.0  # of a value that is tuned, as it begins: that of a LayerNorm's scale
    keeps: Literal["each", "newest", "nothing"] = "each"  # of which tasks the bank holds tensors


def with_places(backbone: Backbone, kind: Kind, options: Record) -> Backbone:
    """The backbone with places for what this kind tunes."""
    return replace(backbone, model=kind.places(backbone.model, options))


def find_kind(name: str) -> Kind:
    """The kind of this name. Raises UserError where there is none."""
    kind: Kind = find_module("tuning", name).KIND
    return kind
