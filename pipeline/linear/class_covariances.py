"""Class Gaussians, each with a covariance of its own: statistics that a learner may keep of classes that are gone.

Counts, means and scatters add up, so that a class that comes again has the statistics of all its samples.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.linear.classes import numbers


class ClassCovariances(NamedTuple):
    """Sufficient statistics of C classes in D dimensions. A scatter is the sum of (x - m) (x - m)' over samples x."""

    counts: Tensor  # [C], float64
    means: Tensor  # [C, D], float64
    scatters: Tensor  # [C, D, D], float32

    def covariance(self, number: int) -> Tensor:
        """The unbiased covariance of a class [D, D], float64; zeros if it has a single sample."""
        return self.scatters[number].double() / (self.counts[number] - 1).clamp(min=1)


def class_covariances_of(state: Mapping[str, Tensor], dim: int) -> ClassCovariances:
    """The statistics in a state; if it is empty, those of no class in D dimensions."""
    if state:
        return ClassCovariances(state["counts"], state["means"], state["scatters"])
    return ClassCovariances(torch.zeros(0).double(), torch.zeros(0, dim).double(), torch.zeros(0, dim, dim))


def add_classes(
    known: ClassCovariances, features: Tensor, labels: Tensor, classes: Tensor | None = None
) -> ClassCovariances:
    """Add the classes of one more task. features: [N, D]; labels: [N], from 0 within the task.

    classes: the number of each label [K] among all classes; None: all are new.
    """
    counts, means, scatters = (list(tensor) for tensor in known)
    for label, number in enumerate(numbers(classes, len(counts), int(labels.max()) + 1).tolist()):
        samples = features[labels == label].double()
        count, mean = torch.tensor(float(len(samples))).double(), samples.mean(0)
        scatter = (samples - mean).T @ (samples - mean)
        if number == len(counts):
            counts, means, scatters = [*counts, count], [*means, mean], [*scatters, scatter.float()]
            continue
        moved, share = mean - means[number], count / (counts[number] + count)  # Chan, Golub, LeVeque 1979, eq. 2.1
        between = counts[number] * share * moved[:, None] * moved
        scatters[number] = (scatters[number].double() + scatter + between).float()
        means[number] = means[number] + share * moved
        counts[number] = counts[number] + count
    return ClassCovariances(torch.stack(counts), torch.stack(means), torch.stack(scatters))
