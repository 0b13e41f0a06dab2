"""What a task tunes: the contract that every file in `pipeline/tuning/kinds` fulfils.

A kind makes places for its tensors in the unmodified timm model, and says with which values they start: with these the
model is the pretrained one, exactly. Everything else is the same for all kinds: `functional_call` puts a task's tensors
into their places, the loop (pipeline.tuning.loop) trains them, a file per task keeps them.

A place is a parameter that the model has, or a new one: registered in a module of a `shared_copy` of the model, whose
hook uses it, or in a module that takes the place of another.
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


class NoOptions(Record):
    """Of a kind that leaves nothing to choose."""


def unmodified(model: AnyModel, options: Any) -> AnyModel:  # noqa: ANN401
    """The model as it is: for kinds that tune its own parameters."""
    del options
    return model


def shared_copy(model: AnyModel) -> AnyModel:
    """A copy whose modules may be changed, swapped and hooked. Its tensors are those of the model: none is copied."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


@dataclass(frozen=True)
class Kind:
    """What a task tunes. `options` is the record of the kind's own block in params.yaml."""

    options: type[Record]
    # (backbone with places, options, previous, images, generator) -> where the tuning of a task begins. `previous` is
    # what the task before has learned; it is empty for the first task, and with `tuning_init: pretrained`. `generator`
    # is the task's own, for what starts at random.
    start: Callable[[Backbone, Any, Tuned, Images, torch.Generator], Tuned]
    sentence: str  # for the report: what a task tunes
    # (model, options) -> the model with places for the tensors; the given one is left alone.
    places: Callable[[Any, Any], Any] = unmodified
    # (model without places, options, a task's tensors) -> parameters of that model under which it does the same, to
    # rounding: it then runs at inference, where images go by task. None: the model with places runs.
    fold: Callable[[Any, Any, Rows], Tuned] | None = None
    # Row t is what the mean of the models of tasks 0 to t runs under, for `selection: average`. None: it means nothing.
    means: Callable[[Rows], Rows] | None = running_means
    # Whether that mean takes tasks that start from one another: what starts at random has its numbers in another order.
    means_of_chain: bool = False
    penalty: Callable[[nn.Module], Tensor] | None = None  # of the batch just run; added to the class loss
    # What goes into the model beside what is tuned, drawn anew for each batch of the training.
    draw: Callable[[torch.Generator], Tuned] = lambda _: {}
    # What is tuned before it on the same images. What that has learned is `previous` here; nothing else is kept of it.
    first: "Kind | None" = None
    # For a kind that sees the tensors of all tasks in one pass, [T, ...] each, and chooses by itself: the task of each
    # image of the batch just run, [B]. None: the selection says which task's tensors an image gets.
    chosen: Callable[[nn.Module], Tensor] | None = None
    size: float = 1.0  # of a value that is tuned, as it begins: that of a LayerNorm's scale
    keeps: Literal["each", "newest", "nothing"] = "each"  # of which tasks the bank holds tensors


def parts_of(kind: Kind) -> list[Kind]:
    """The kinds that a task tunes one after the other, the kind itself last."""
    return [*(parts_of(kind.first) if kind.first else []), kind]


def with_places(backbone: Backbone, kind: Kind, options: Record) -> Backbone:
    """The backbone with places for what this kind tunes."""
    folding = Folding(backbone.model, partial(kind.fold, backbone.model, options)) if kind.fold else None
    return replace(backbone, model=kind.places(backbone.model, options), folding=folding)


def find_kind(name: str) -> Kind:
    """The kind of this name. Raises UserError where there is none."""
    kind: Kind = find_module("tuning", name).KIND
    return kind
