"""Class Gaussians with covariances of their own, regularised: S_c = a1 own + a2 pooled + a3 mean variance I.

The own part is kept as the r strongest directions of a class's scatter: R_c [r, D] with R_c' R_c about the covariance
of the class. With P = a2 pooled + a3 mean variance I and M_c = I + a1 R_c P^-1 R_c', Woodbury's identity gives

    S_c^-1 = P^-1 - F_c' F_c,  F_c = M_c^-1/2 sqrt(a1) R_c P^-1,  log|S_c| = log|P| + log|M_c|

so that the score -((x - m_c)' S_c^-1 (x - m_c) + log|S_c|) / 2 is, up to what all classes share, a linear discriminant
under P plus half the squared length of F_c (x - m_c) (regularised discriminant analysis; FeCAM, arXiv 2309.14062).
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear.gaussians import Gaussians, covariance
from pipeline.linear.head import Head


def own_directions(features: Tensor, labels: Tensor, rank: int) -> Tensor:
    """R_c of each class: [C, r, D], zeros where a class has fewer directions. features: [N, D]; labels: [N].

    r is `rank`, or D if that is less.
    """
    found, rank = [], min(rank, features.shape[1])
    for c in range(int(labels.max()) + 1):
        of_class = features[labels == c].double()
        deviations = (of_class - of_class.mean(0)) / len(of_class) ** 0.5
        _, lengths, directions = torch.linalg.svd(deviations, full_matrices=False)
        strongest = (lengths[:, None] * directions)[:rank]
        found.append(functional.pad(strongest, (0, 0, 0, rank - len(strongest))))
    return torch.stack(found)


def quadratic_discriminant(
    gaussians: Gaussians, directions: Tensor, *, own: float, shrinkage: float, vectors: int = 1
) -> Head:
    """The discriminant of equally likely classes. directions: R_c [C, r, D]; a1 is `own`, a3 is `shrinkage`."""
    # What the class's own part leaves is `covariance`, scaled.
    rest = 1 - own
    shared = rest * covariance(gaussians, shrinkage / rest, vectors)
    scaled = own**0.5 * directions
    classes, rank, dim = scaled.shape
    solved = torch.linalg.solve(shared, torch.cat([gaussians.means, scaled.flatten(0, 1)]).T).T
    weight, turned = solved[:classes], solved[classes:].view(classes, rank, dim)
    inner = torch.eye(rank, dtype=scaled.dtype) + turned @ scaled.transpose(1, 2)  # M_c
    root = torch.linalg.cholesky(inner)
    factors = torch.linalg.solve_triangular(root, turned, upper=False)
    half_log = root.diagonal(dim1=1, dim2=2).log().sum(1)  # log|M_c| / 2
    bias = -(gaussians.means * weight).sum(1) / 2 - half_log
    offsets = torch.einsum("crd,cd->cr", factors, gaussians.means)
    return Head(weight.float(), bias.float(), factors=factors.float(), offsets=offsets[:, None].float())
