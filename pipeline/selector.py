"""Which task's LayerNorms an image gets: a score for every task so far, from the image's query alone.

A selector maps queries [B, D] to scores [B, T]; the highest wins. `SELECTORS` names those that params.yaml can choose.
"""

from collections.abc import Callable

from torch import Tensor

from pipeline.errors import UserError
from pipeline.key import cosine

Selector = Callable[[Tensor, Tensor], Tensor]  # queries [B, D], keys [T, D] -> scores [B, T]


SELECTORS: dict[str, Selector] = {"key": cosine}


def select_tasks(selector: str, queries: Tensor, keys: Tensor) -> Tensor:
    """Zero-based task of each query [B, D], among those of keys [T, D]: int64 [B]. Raises UserError for its name."""
    if selector not in SELECTORS:
        raise UserError(f"params.yaml: selector {selector!r} is unknown: choose one of {', '.join(SELECTORS)}")
    return SELECTORS[selector](queries, keys).argmax(1)
