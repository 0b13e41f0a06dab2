"""Composes kinds: a task tunes the tensors of several at once, in one model.

A pair that is wanted is a file in `pipeline/tuning/kinds`, such as `layernorm_ia3`, since DVC follows one file and one
block of options per value of `tuning`. The block has a block per member.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import create_model
from torch import nn

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.store.cumulative import running_means
from pipeline.tuning.kind import AnyModel, Kind, Rows, unmodified

_COMPOSABLE = {"options", "start", "sentence", "places", "fold", "means", "scalable", "means_of_chain", "size"}


def compose(sentence: str, **members: Kind) -> Kind:
    """The kind whose tasks tune what all members do; an option `x` of member `m` is `m.x` in its block.

    Raises ValueError for a member that does more than put tensors into places, for more than one with a `fold`, and for
    one with places but no `fold` beside one that has it.
    """
    _check(members)
    fields: Any = {name: (kind.options, ...) for name, kind in members.items()}
    folding = [(name, kind.fold) for name, kind in members.items() if kind.fold]
    own_means = [kind.means for kind in members.values()]

    def places(model: AnyModel, options: Any) -> AnyModel:  # noqa: ANN401
        for name, kind in members.items():
            model = kind.places(model, getattr(options, name))
        return model

    def start(backbone: Backbone, options: Any, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:  # noqa: ANN401
        if previous:
            return previous
        starts = (kind.start(backbone, getattr(options, name), {}, images, generator) for name, kind in members.items())
        return {place: tensor for start in starts for place, tensor in start.items()}

    def fold(model: nn.Module, options: Any, tuned: Rows) -> Tuned:  # noqa: ANN401
        name, fold_member = folding[0]
        frozen = dict(model.named_parameters())
        own = {place: tensor for place, tensor in tuned.items() if place in frozen}
        return own | fold_member(model, getattr(options, name), tuned)

    def means(bank: Rows) -> Rows:
        special: Tuned = {}
        for of_member in own_means:
            if of_member and of_member is not running_means:
                special |= of_member(bank)
        return {**running_means({place: rows for place, rows in bank.items() if place not in special}), **special}

    return Kind(
        options=create_model("Options", __base__=Record, __doc__="A block of options per member.", **fields),
        start=start,
        sentence=sentence,
        places=places,
        fold=fold if folding else None,
        means=means if all(own_means) else None,
        scalable=all(kind.scalable for kind in members.values()),
        means_of_chain=any(kind.means_of_chain for kind in members.values()),
        size=min(kind.size for kind in members.values()),
    )


def _check(members: Mapping[str, Kind]) -> None:
    for name, kind in members.items():
        plain = Kind(kind.options, kind.start, kind.sentence)
        if more := [
            field for field in vars(plain).keys() - _COMPOSABLE if getattr(kind, field) != getattr(plain, field)
        ]:
            raise ValueError(f"{name} cannot be composed: {', '.join(sorted(more))}")
    placing = [kind for kind in members.values() if kind.places is not unmodified]
    folding = [kind for kind in placing if kind.fold]
    if len(folding) > 1 or (folding and len(placing) > 1):
        raise ValueError("a folded member must be the only one with places")
