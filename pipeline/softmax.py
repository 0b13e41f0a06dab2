"""Softmax regression, as stage two and one of the selectors train it."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

from pipeline.head import Head
from pipeline.progress import Progress


def train_softmax(  # noqa: PLR0913
    start: Head,
    views: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    lr: float,
    epochs: int,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Head:
    """Cross-entropy lowered by Adam at a constant rate.

    views: [V, N, D], one view an epoch in turn; labels: [N], rows of `start`. progress: told of every step and epoch.
    """
    weights = [tensor.clone().requires_grad_() for tensor in (start.weight, start.bias)]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))  # moments
    steps = [torch.zeros(()) for _ in weights]
    # The optimiser's function, not its class: the class imports a compiler for two seconds, this trains for one.
    step = partial(adam, amsgrad=False, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, maximize=False)
    for epoch in range(epochs):
        view = views[epoch % len(views)]
        for rows in torch.randperm(len(labels), generator=generator).split(batch_size):
            loss = functional.cross_entropy(functional.linear(view[rows], *weights), labels[rows])
            with torch.no_grad():
                step(weights, list(torch.autograd.grad(loss, weights)), first, second, [], steps, lr=lr)
            if progress:
                progress.step(len(rows), loss)
        if progress:
            progress.end_epoch(epoch, epochs, remedy=f"lower classifier_lr ({lr:g})")
    weight, bias = (tensor.detach() for tensor in weights)
    return Head(weight, bias)
