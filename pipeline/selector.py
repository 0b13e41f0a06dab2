"""Which task's LayerNorms an image gets: a score for every task so far, from the image's query alone.

A selector maps queries [B, D] to scores [B, T]; the highest wins. `SELECTORS` names those that params.yaml can choose.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.key import cosine

Selection = Literal["query", "layerwise", "oracle", "latest"]
Selector = Callable[[Tensor, Tensor], Tensor]  # queries [B, D], keys [T, D] -> scores [B, T]


SELECTORS: dict[str, Selector] = {"key": cosine}


def select_tasks(selection: Selection, selector: str, queries: Tensor, own_tasks: Tensor, keys: Tensor) -> Tensor:
    """Zero-based task whose LayerNorms each image gets, among T: int64 [B].

    selection: `query`, by the selector from queries [B, D] and keys [T, D]; `oracle`, the image's own task [B];
    `latest`, always the newest. Raises UserError for an unknown selector.
    """
    if selection == "oracle":
        return own_tasks
    if selection == "latest":
        return torch.full_like(own_tasks, len(keys) - 1)
    assert selection == "query", f"{selection} chooses within the backbone"
    if selector not in SELECTORS:
        raise UserError(f"params.yaml: selector {selector!r} is unknown: choose one of {', '.join(SELECTORS)}")
    return SELECTORS[selector](queries, keys).argmax(1)
