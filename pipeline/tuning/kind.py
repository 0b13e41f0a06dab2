"""What a task tunes: the contract that every file in `pipeline/tuning/kinds` fulfils.

A kind makes places for its tensors in the unmodified timm model and gives their start values. With these values the
model is exactly the pretrained one. Prompts are the exception: every token sees them from the start. Everything else is
the same for all kinds: `functional_call` puts a task's tensors into their places, the loop (pipeline.tuning.loop)
trains them, and one file per task stores them.

A place is a parameter of the model, or a new one. A new one is registered in a module of a `shared_copy` of the model
and used by a hook of that module, or it belongs to a module that replaces another.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from pipeline.backbone.vit import Backbone, Folding, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.parts import find_module
from pipeline.store.cumulative import running_means

AnyModel = TypeVar("AnyModel", bound=nn.Module)
Rows = Mapping[str, Tensor]  # what T tasks have tuned, [T, ...] each


def unmodified(model: AnyModel, options: Any) -> AnyModel:  # noqa: ANN401
    """The unchanged model, for kinds that tune the model's own parameters."""
    del options
    return model


def shared_copy(model: AnyModel) -> AnyModel:
    """A copy whose modules may be changed, swapped and hooked. It shares all tensors with the model."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


@dataclass(frozen=True)
class Kind:
    """What a task tunes. `options` is the record of the kind's own block in params.yaml."""

    options: type[Record]
    # (backbone with places, options, previous, images, generator) -> start values of a task. `previous` holds the
    # tensors of the task before; it is empty for the first task and with `tuning_init: pretrained`. `generator` is the
    # task's own, for tensors that start at random.
    start: Callable[[Backbone, Any, Tuned, Images, torch.Generator], Tuned]
    sentence: str  # for the report: what a task tunes
    # (model, options) -> the model with places for the tensors. The given model does not change.
    places: Callable[[Any, Any], Any] = unmodified
    # (model without places, options, a task's tensors) -> parameters with which that model computes the same, up to
    # rounding. It then runs at inference, where images of one task run together. None: the model with places runs.
    fold: Callable[[Any, Any, Rows], Tuned] | None = None
    # Bank -> tensors of the mean of the models of tasks 0 to t in row t, for `selection: average`. None: no such mean.
    means: Callable[[Rows], Rows] | None = running_means
    # Whether it is the plain mean of numbers that start at what stands in their places, from where it may be scaled.
    scalable: bool = False
    # Whether that mean needs tasks that start from one another: tensors that start at random have no common order.
    means_of_chain: bool = False
    penalty: Callable[[nn.Module], Tensor] | None = None  # for the batch just run; added to the class loss
    # Tensors that the model gets besides the tuned ones, drawn anew for each batch in training.
    draw: Callable[[torch.Generator], Tuned] = lambda _: {}
    # A kind that is tuned before this one on the same images. Its result is `previous` here, and is not kept.
    first: "Kind | None" = None
    # For a kind that sees the tensors of all tasks in one pass, [T, ...] each, and chooses a task itself: the task
    # chosen for each image of the batch just run, [B]. None: `selection` decides which task's tensors an image gets.
    chosen: Callable[[nn.Module], Tensor] | None = None
    # Whether the model with places runs the frozen one first, for each image: prompts are chosen by its output.
    asks_frozen: bool = False
    # Tensors with rows of which a task trains the last few alone: name -> how many. Each task adds as many.
    grows: Callable[[Any], Mapping[str, int]] = lambda _: {}
    # For a kind that leaves the frozen model's own pass as it is: (model with places, bank) -> a model that gives, in
    # one pass, the frozen output and then the feature under each task's tensors: [B, (1 + T) D].
    together: Callable[[Any, Rows], Any] | None = None
    size: float = 1.0  # typical start value of a tuned parameter; 1.0 is that of a LayerNorm's scale
    keeps: Literal["each", "newest", "nothing"] = "each"  # the tasks whose tensors the bank holds


def parts_of(kind: Kind) -> list[Kind]:
    """The kinds that a task tunes one after another; the kind itself is last."""
    return [*(parts_of(kind.first) if kind.first else []), kind]


def with_places(backbone: Backbone, kind: Kind, options: Record) -> Backbone:
    """The backbone with places for the tensors of this kind."""
    folding = Folding(backbone.model, partial(kind.fold, backbone.model, options)) if kind.fold else None
    return replace(backbone, model=kind.places(backbone.model, options), folding=folding)


def find_kind(name: str) -> Kind:
    """The kind of this name. Raises UserError if there is none."""
    kind: Kind = find_module("tuning", name).KIND
    return kind
