"""How unlike all known classes a picture is: a score, and the threshold above which the answer is "none of these".

The score is the relative Mahalanobis distance (Ren et al., arXiv 2106.09022): the squared distance of a feature to the
nearest class Gaussian minus that to one Gaussian of all classes together. The statistics are those that a linear
discriminant keeps. Where there are none, the score is minus the highest logit.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.linear.gaussians import SHRINKAGE, Gaussians, covariance
from pipeline.params import Record

FALSE_ALARMS = 0.05  # the share of pictures of known classes that the threshold is chosen to call alien


class Threshold(Record):
    """Where "none of these" begins. Both halves are of pictures that no training has seen."""

    value: float
    chosen_on: int  # pictures whose scores it is the 95th percentile of
    measured_on: int  # other pictures
    false_alarms: float  # share of these that are above it


class Novelty(NamedTuple):
    """Maps of features in which distances are Mahalanobis distances, float32."""

    means: Tensor  # [C, D] of the classes, mapped
    whiten: Tensor  # [D, D]
    centre: Tensor  # [1, D] of all classes, mapped by the other map
    whiten_all: Tensor  # [D, D]

    def scores(self, features: Tensor) -> Tensor:
        """[B, D] -> [B]; higher is more alien."""
        nearest = torch.cdist(features @ self.whiten, self.means).amin(1).square()
        background = torch.cdist(features @ self.whiten_all, self.centre).amin(1).square()
        return nearest - background


def novelty_of(gaussians: Gaussians) -> Novelty:
    """The maps, from the statistics of C classes."""
    share = gaussians.counts / gaussians.counts.sum()
    centre = (share[:, None] * gaussians.means).sum(0, keepdim=True)
    deviations = gaussians.means - centre
    between = deviations.T @ (gaussians.counts[:, None] * deviations)
    together = Gaussians(gaussians.counts.sum()[None], centre, gaussians.scatter + between)
    whiten, whiten_all = (_root(covariance(of, SHRINKAGE)) for of in (gaussians, together))
    tensors = (gaussians.means @ whiten, whiten, centre @ whiten_all, whiten_all)
    return Novelty(*(tensor.float() for tensor in tensors))


def _root(matrix: Tensor) -> Tensor:
    """W with W W' = matrix^-1: [D, D]."""
    inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    root: Tensor = torch.linalg.cholesky(inverse)
    return root


def scores_of(novelty: Novelty | None, features: Tensor, logits: Tensor) -> Tensor:
    """Scores [B] of features [B, D]; without statistics, from logits [B, C]."""
    return -logits.amax(1) if novelty is None else novelty.scores(features)


def choose_threshold(scores: Tensor, labels: Tensor) -> Threshold | None:
    """The threshold, from M pictures that no training has seen. Every second picture of a class chooses it; the others
    measure its false alarms. None if there are fewer than two pictures.
    """
    if len(scores) < 2:
        return None
    order = labels.argsort(stable=True)
    chosen, measured = scores[order[::2]], scores[order[1::2]]
    value = float(chosen.double().quantile(1 - FALSE_ALARMS))
    false = float((measured > value).float().mean())
    return Threshold(value=value, chosen_on=len(chosen), measured_on=len(measured), false_alarms=round(false, 6))
