"""The key of a task: a direction that the frozen backbone's outputs for its images share."""

from torch import Tensor
from torch.nn import functional


def closed_form_key(queries: Tensor) -> Tensor:
    """The key that maximises the mean cosine to the queries [N, D] of a task: normalise(mean_i q_i / |q_i|), [D].

    The paper reaches it by gradient descent on that same objective (arXiv 2308.09610, section 3; METHOD: key).
    """
    return functional.normalize(functional.normalize(queries, dim=1).mean(0), dim=0)


def cosine(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosine of queries [B, D] to keys [T, D]: [B, T]."""
    return functional.normalize(queries, dim=1) @ functional.normalize(keys, dim=1).T
