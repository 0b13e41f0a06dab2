"""Class Gaussians with one shared covariance: statistics that a learner may keep of classes whose images are gone.

They consist of counts, means and the scatter within classes. They grow class by class and never contain a sample.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.linear.classes import numbers
from pipeline.linear.head import Head

SHRINKAGE = 0.1  # of the covariance, for every linear discriminant
_LEAST_VARIANCE = 1e-9  # far below any real one; without it, identical images would have a singular covariance


class Gaussians(NamedTuple):
    """Sufficient statistics of C classes in D dimensions, float64."""

    counts: Tensor  # [C]
    means: Tensor  # [C, D]
    scatter: Tensor  # [D, D], sum over all samples of the outer product of their deviation from the class mean


def no_gaussians(dim: int) -> Gaussians:
    """The statistics before the first class."""
    return Gaussians(torch.zeros(0).double(), torch.zeros(0, dim).double(), torch.zeros(dim, dim).double())


def gaussians_of(state: Mapping[str, Tensor], dim: int) -> Gaussians:
    """The statistics in a state, in D dimensions; those of no class if it is empty."""
    return Gaussians(state["counts"], state["means"], state["scatter"]) if state else no_gaussians(dim)


def add_classes(gaussians: Gaussians, features: Tensor, labels: Tensor, classes: Tensor | None = None) -> Gaussians:
    """Add the classes of one more task. features: [N, D]; labels: [N], from 0 within the task.

    classes: the number of each label [K] among all classes; None: all are new. The statistics of a class that comes
    again become those of all its samples.
    """
    features, one_hot = features.double(), torch.nn.functional.one_hot(labels).double()
    counts = one_hot.sum(0)
    means = (one_hot.T @ features) / counts[:, None]
    deviations = features - means[labels]
    new = Gaussians(counts, means, deviations.T @ deviations)
    return _merged(gaussians, new, numbers(classes, len(gaussians.counts), len(counts)))


def _merged(old: Gaussians, new: Gaussians, classes: Tensor) -> Gaussians:
    """Statistics of the samples of both, where `new` has the classes [K] (Chan, Golub, LeVeque 1979, eq. 2.1)."""
    counts, means, scatter = old.counts.clone(), old.means.clone(), old.scatter + new.scatter
    again = classes < len(counts)
    if bool(again.any()):
        rows, more = classes[again], new.counts[again]
        moved, share = new.means[again] - means[rows], more / (counts[rows] + more)
        scatter = scatter + (moved * (counts[rows] * share)[:, None]).T @ moved
        means[rows] += share[:, None] * moved
        counts[rows] += more
    return Gaussians(torch.cat([counts, new.counts[~again]]), torch.cat([means, new.means[~again]]), scatter)


def covariance(gaussians: Gaussians, shrinkage: float, vectors: int = 1) -> Tensor:
    """The shared covariance [D, D], shrunk towards a multiple of the identity: (1 - s) S + s tr(S) / D I.

    vectors: of how many vectors a feature consists; each is shrunk towards its own mean variance.
    """
    pooled = gaussians.scatter / gaussians.counts.sum()
    return (1 - shrinkage) * pooled + (shrinkage * mean_variances(pooled, vectors)).clamp(min=_LEAST_VARIANCE).diag()


def mean_variances(covariance: Tensor, vectors: int) -> Tensor:
    """The mean variance of the vector to which each coordinate belongs: [D]."""
    dim = len(covariance) // vectors
    if vectors == 1:
        return (covariance.trace() / dim).expand(dim)
    return covariance.diag().view(vectors, dim).mean(1).repeat_interleave(dim)


def linear_discriminant(gaussians: Gaussians, shrinkage: float, vectors: int = 1) -> Head:
    """The linear discriminant of equally likely classes: its logits are log posteriors up to a constant.

    w_c = S^-1 m_c, b_c = -m_c' S^-1 m_c / 2 (Hastie, Tibshirani, Friedman: Elements of Statistical Learning, 4.3).
    """
    weight = torch.linalg.solve(covariance(gaussians, shrinkage, vectors), gaussians.means.T).T
    bias = -(gaussians.means * weight).sum(1) / 2
    return Head(weight.float(), bias.float())


def sample(gaussians: Gaussians, per_class: int, shrinkage: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw random features [C * per_class, D] of every class, and their labels.

    The covariance is shrunk towards one mean variance, whatever vectors a feature consists of.
    """
    root = torch.linalg.cholesky(covariance(gaussians, shrinkage))
    classes, dim = gaussians.means.shape
    noise = torch.randn(classes * per_class, dim, generator=generator, dtype=root.dtype)
    labels = torch.arange(classes).repeat_interleave(per_class)
    return (gaussians.means[labels] + noise @ root.T).float(), labels


class Move(NamedTuple):
    """A linear map of features, one matrix per vector."""

    centre: Tensor  # [V d] what moves to the target
    target: Tensor  # [V d]
    matrices: Tensor  # [V, d, d]

    def points(self, points: Tensor) -> Tensor:
        """Where points [..., V d] move to."""
        return self.directions(points - self.centre) + self.target

    def directions(self, directions: Tensor) -> Tensor:
        """Where differences of points [..., V d] move to."""
        if len(self.matrices) == 1:
            return directions @ self.matrices[0]
        parts = directions.reshape(-1, *self.matrices.shape[:2]).transpose(0, 1)  # [V, n, d]
        moved: Tensor = torch.bmm(parts, self.matrices).transpose(0, 1).reshape(directions.shape)
        return moved

    def scatter(self, scatter: Tensor) -> Tensor:
        """A' S A of a scatter [V d, V d]."""
        if len(self.matrices) == 1:
            return self.matrices[0].T @ scatter @ self.matrices[0]
        moved: Tensor = self.directions(self.directions(scatter).T).T
        return moved


def fit_move(before: Tensor, after: Tensor, penalty: float, vectors: int = 1) -> Move:
    """The map from features [N, V d] of some images to other features of the same images.

    For each vector a linear map A, b is fitted by least squares, with A shrunk towards the identity:
    min ||(X - x) A - (Y - y)||^2 / N + penalty tr(S_X) / d ||A - I||^2, where x and y are the means.
    """
    before, after = before.double(), after.double()
    centre, target = before.mean(0), after.mean(0)
    pairs = zip((before - centre).chunk(vectors, 1), (after - target).chunk(vectors, 1), strict=True)
    matrices = [
        towards_identity(inputs.T @ inputs / len(inputs), inputs.T @ outputs / len(inputs), penalty)
        for inputs, outputs in pairs
    ]
    # A view of the only one keeps its order in memory, on which the last bits of products depend.
    return Move(centre, target, matrices[0][None] if vectors == 1 else torch.stack(matrices))


def towards_identity(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
    """The ridge solution [d, d] for X'X / N and X'Y / N that is shrunk towards the identity."""
    dim = len(gram)
    strength = (penalty * gram.trace() / dim).clamp(min=_LEAST_VARIANCE) * torch.eye(dim, dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram + strength, cross + strength)
    return solution


def carry(gaussians: Gaussians, move: Move) -> Gaussians:
    """Move the Gaussians of old classes to where the new LayerNorms put their features."""
    return Gaussians(gaussians.counts, move.points(gaussians.means), move.scatter(gaussians.scatter))
