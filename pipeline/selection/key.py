"""The key of a task: the direction that the frozen backbone's outputs for its images share."""

import torch
from torch import Tensor
from torch.nn import functional

_BATCH = 128


def closed_form_key(queries: Tensor) -> Tensor:
    """The key that maximises the mean cosine to the queries [N, D] of a task: normalise(mean_i q_i / |q_i|), [D].

    The paper reaches it by gradient descent on that same objective (arXiv 2308.09610, section 3).
    """
    return functional.normalize(functional.normalize(queries, dim=1).mean(0), dim=0)


def trained_key(queries: Tensor, *, lr: float, epochs: int, generator: torch.Generator) -> Tensor:
    """The key by gradient descent on that objective, as in the paper's code: [D].

    Adam at a constant rate on batches of 128 queries [N, D]; each coordinate starts from U(-1, 1). The queries are
    those of the clean images, while the paper's code draws crops.
    """
    key = (2 * torch.rand(queries.shape[1], generator=generator) - 1).requires_grad_()
    optimiser = torch.optim.Adam([key], lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(queries), generator=generator).split(_BATCH):
            loss = -cosine(queries[rows], key[None]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return functional.normalize(key.detach(), dim=0)


def cosine(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosine of queries [B, D] to keys [T, D]: [B, T]."""
    return functional.normalize(queries, dim=1) @ functional.normalize(keys, dim=1).T
