"""Selects and orders labelled images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LabelledImages = dict[str, Tensor]  # images uint8 [N, H, W, 3], labels int64 [N]

VALIDATION_SHARE = 0.2


def take_classes(source: Mapping[str, Tensor], classes: Sequence[int]) -> LabelledImages:
    """The images of these classes, class after class; labels become positions in `classes`."""
    rows = [(source["labels"] == c).nonzero().flatten() for c in classes]
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(r) for r in rows]))
    return {"images": source["images"][torch.cat(rows)], "labels": labels}


def hold_out(source: Mapping[str, Tensor], generator: torch.Generator) -> tuple[LabelledImages, LabelledImages]:
    """A fifth of the images of each class, at least one, apart from the rest: (rest, held out).

    Where hyper-parameters are chosen, they are chosen on the held-out part of the training images.
    """
    order = torch.randperm(len(source["labels"]), generator=generator)
    is_held_out = torch.zeros(len(order), dtype=torch.bool)
    for c in source["labels"].unique().tolist():
        rows = order[source["labels"][order] == c]
        is_held_out[rows[: max(1, round(VALIDATION_SHARE * len(rows)))]] = True
    rest, held_out = ({name: tensor[part] for name, tensor in source.items()} for part in (~is_held_out, is_held_out))
    return rest, held_out
