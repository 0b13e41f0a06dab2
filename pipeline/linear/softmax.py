"""Softmax regression, for stage two and one of the selectors."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

from pipeline.linear.head import Head
from pipeline.progress import Progress


@torch.no_grad()
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
    """Minimise the cross-entropy with Adam at a constant rate.

    views: [V, N, D], each epoch uses the next view; labels: [N], rows of `start`. progress: gets every step and epoch.
    The gradient is written out, because autograd took a third of such a small step. For logits z = W x + b and the
    one-hot label y it is dL/dz = softmax(z) - y, so dL/dW = (softmax(z) - y) x' (Bishop, Pattern Recognition and
    Machine Learning, eq. 4.109).
    """
    weights = [tensor.clone() for tensor in (start.weight, start.bias)]
    one_hot = torch.eye(len(start.bias), dtype=start.bias.dtype, device=start.bias.device)  # [C, C]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))  # moments
    steps = [torch.zeros(()) for _ in weights]
    # Use the optimiser's function instead of its class: importing the class takes two seconds, this training one.
    step = partial(adam, amsgrad=False, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, maximize=False)
    for epoch in range(epochs):
        view = views[epoch % len(views)]
        for rows in torch.randperm(len(labels), generator=generator).split(batch_size):
            inputs, target = view[rows], one_hot[labels[rows]]
            log_probability = functional.linear(inputs, *weights).log_softmax(1)
            error = (log_probability.exp() - target) / len(inputs)  # dL/dz
            step(weights, [error.T @ inputs, error.sum(0)], first, second, [], steps, lr=lr)
            if progress:
                progress.step(len(inputs), -(target * log_probability).sum() / len(inputs))
        if progress:
            progress.end_epoch(epoch, epochs, remedy=f"lower classifier_lr ({lr:g})")
    return Head(*weights)
