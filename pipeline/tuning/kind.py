"""What a task tunes: the contract that every file in `pipeline/tuning/kinds` fulfils.

A kind makes places for its tensors in the unmodified timm model and gives their start values. With these values the
model is exactly the pretrained one. Everything else is the same for all kinds: `functional_call` puts a task's tensors
into their places, the loop (pipeline.tuning.loop) trains them, and one file per task stores them.
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
    """The options of a kind that has none."""


def unmodified(model: AnyModel, options: Any) -> AnyModel:  # noqa: ANN401
    """The unchanged model, for kinds that tune the model's own parameters."""
    del options
    return model


@dataclass(frozen=True)
class Kind:
    """What a task tunes. `options` is the record of the kind's own block in params.yaml."""

    options: type[Record]
    # (backbone with places, options, previous, images) -> start values of a task. `previous` holds the tensors of the
    # task before; it is empty for the first task and with `tuning_init: pretrained`.
    start: Callable[[Backbone, Any, Tuned, Images], Tuned]
    sentence: str  # for the report: what a task tunes
    # (model, options) -> the model with places for the tensors. The given model does not change.
    places: Callable[[Any, Any], Any] = unmodified
    penalty: Callable[[nn.Module], Tensor] | None = None  # for the batch just run; added to the class loss
    # For a kind that sees the tensors of all tasks in one pass, [T, ...] each, and chooses a task itself: the task
    # chosen for each image of the batch just run, [B]. None: `selection` decides which task's tensors an image gets.
    chosen: Callable[[nn.Module], Tensor] | None = None
    size: float = 1.0  # typical start value of a tuned parameter; 1.0 is that of a LayerNorm's scale
    keeps: Literal["each", "newest", "nothing"] = "each"  # the tasks whose tensors the bank holds


def with_places(backbone: Backbone, kind: Kind, options: Record) -> Backbone:
    """The backbone with places for the tensors of this kind."""
    return replace(backbone, model=kind.places(backbone.model, options))


def find_kind(name: str) -> Kind:
    """The kind of this name. Raises UserError if there is none."""
    kind: Kind = find_module("tuning", name).KIND
    return kind
