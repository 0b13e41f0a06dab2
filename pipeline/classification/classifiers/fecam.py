"""`classifier: fecam`: the Mahalanobis distance to each class, by a covariance of its own (FeCAM, arXiv 2309.14062).

As the authors' scripts do it for pretrained ViTs. Features x have length 1. m_c is their mean over a class, which is
not scaled again, and C_c their unbiased covariance. With v the mean of its diagonal and w that of all else, it becomes

    C_c + diagonal v I + off_diagonal w (1 1' - I)

and is then divided by its deviations, which leaves correlations R_c. The class with the least distance
(x - m_c)' R_c^-1 (x - m_c) wins. Published are 1 and 0 (CIFAR-100, CORe50), or 10 and 10 (ImageNet-R). The authors'
power transform is for ReLU features of networks trained from scratch. For CORe50 they average the covariances of a
class over its domains; here, all samples of a class count as if they had come together.
"""

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear.class_covariances import add_classes, class_covariances_of
from pipeline.linear.head import Head
from pipeline.params import Record

_LEAST_VARIANCE = 1e-9  # a class with a single image has none
_LEAST_EIGENVALUE = 1e-6  # of correlations; directions below count for nothing, as in a pseudo-inverse


class Options(Record):
    """How far a covariance is shrunk; the defaults are the published ones for CIFAR-100."""

    diagonal: Annotated[float, Field(ge=0.01, le=1000)] = 1.0  # times the mean variance, added to each variance
    off_diagonal: Annotated[float, Field(ge=0, le=1000)] = 0.0  # times the mean covariance, added to each covariance

    @model_validator(mode="after")
    def _check_definite(self) -> "Options":
        if self.off_diagonal > self.diagonal:
            raise ValueError(
                f"off_diagonal is {self.off_diagonal}, but it may be as large as diagonal ({self.diagonal}) at most"
            )
        return self


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the statistics of the task's classes. Rows of all other classes stay as they are, bit for bit."""
    options: Options = training.options or Options()
    directions = functional.normalize(features.own, dim=1)
    before = class_covariances_of(state, directions.shape[1])
    after = add_classes(before, directions, features.labels, features.classes)
    rows = [row(mean, correlations(after.covariance(c), options)) for c, mean in enumerate(after.means)]
    weight, bias, factors, offsets = (torch.stack(tensors).float() for tensors in zip(*rows, strict=True))
    unit = torch.ones(len(bias), dtype=torch.bool)
    return after._asdict(), Head(weight, bias, factors=factors, offsets=offsets[:, None], unit=unit)


def correlations(covariance: Tensor, options: Options) -> Tensor:
    """R of the shrunk covariance: [D, D]."""
    dim = len(covariance)
    mean_variance = covariance.diag().mean().clamp(min=_LEAST_VARIANCE)
    mean_covariance = (covariance.sum() - covariance.trace()) / max(dim * (dim - 1), 1)
    identity = torch.eye(dim, dtype=covariance.dtype)
    shrunk = covariance + options.diagonal * mean_variance * identity
    shrunk = shrunk + options.off_diagonal * mean_covariance * (1 - identity)
    deviations = shrunk.diag().sqrt()
    return shrunk / deviations / deviations[:, None]


def row(mean: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, factors and offsets of minus half the distance by R: [D], [], [D, D] and [D].

    For P = R^-1, c its largest eigenvalue, F' F = c I - P and |x| = 1,

        -(x - m)' P (x - m) / 2 = c m'x - c (1 + m'm) / 2 + |F x - F m|^2 / 2.
    """
    values, vectors = torch.linalg.eigh(matrix)
    inverses = torch.where(values > _LEAST_EIGENVALUE, 1 / values, 0)
    largest = inverses.max()
    factors = (largest - inverses).sqrt()[:, None] * vectors.T
    return largest * mean, -largest * (1 + mean @ mean) / 2, factors, factors @ mean


CLASSIFIER = Classifier(
    learn,
    """Classes are Gaussians of features of length 1, each with a covariance of its own, shrunk and scaled to
        correlations. The class with the least Mahalanobis distance wins; distances are comparable between tasks.""",
    options=Options,
)
