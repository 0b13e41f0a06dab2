"""An anchor for class means that are carried along: the same means in the frozen feature space, where nothing drifts.

The frozen backbone's features (queries) of a class stay what they were, so its mean there is exact for ever. A map from
queries to present features is fitted to sums over the images of all tasks. The sums of old tasks follow the features by
the same map as the class statistics do. The map then predicts where the mean of an old class is now: a second estimate,
whose error accumulates differently. No sample is kept.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.linear.gaussians import Move, towards_identity


class Anchor(NamedTuple):
    """Sums over all images so far, float64, for each of V vectors, and the class means of the queries."""

    images: Tensor  # [] N
    queries: Tensor  # [V d]
    features: Tensor  # [V d]
    gram: Tensor  # [V, d, d] of queries with queries
    cross: Tensor  # [V, d, d] of queries with features
    means: Tensor  # [C, V d]


def anchor_of(state: Mapping[str, Tensor], size: int, vectors: int) -> Anchor:
    """The anchor in a state; if the state is empty, that of no image. size: V d."""
    if state:
        return Anchor(**state)
    none, square = torch.zeros(size).double(), torch.zeros(vectors, size // vectors, size // vectors).double()
    return Anchor(torch.zeros(()).double(), none, none, square, square, torch.zeros(0, size).double())


def moved(anchor: Anchor, move: Move) -> Anchor:
    """The sums as they would be if the old images had been encoded by the new model."""
    vectors, dim, _ = anchor.cross.shape
    queries, centre, target = (x.view(vectors, dim) for x in (anchor.queries, move.centre, move.target))
    cross = (anchor.cross - queries[:, :, None] * centre[:, None]) @ move.matrices
    return anchor._replace(
        features=move.directions(anchor.features - anchor.images * move.centre) + anchor.images * move.target,
        cross=cross + queries[:, :, None] * target[:, None],
    )


def added(anchor: Anchor, queries: Tensor, features: Tensor, labels: Tensor) -> Anchor:
    """Add the classes of one more task. queries, features: [N, V d]; labels: [N], from 0 within the task."""
    queries, features = queries.double(), features.double()
    shape = (len(queries), *anchor.gram.shape[:2])
    inputs, outputs = queries.view(shape), features.view(shape)
    classes = range(int(labels.max()) + 1)
    return Anchor(
        anchor.images + len(queries),
        anchor.queries + queries.sum(0),
        anchor.features + features.sum(0),
        anchor.gram + torch.einsum("nvi,nvj->vij", inputs, inputs),
        anchor.cross + torch.einsum("nvi,nvj->vij", inputs, outputs),
        torch.cat([anchor.means, *(queries[labels == c].mean(0, keepdim=True) for c in classes)]),
    )


def predicted_means(anchor: Anchor, penalty: float) -> Tensor:
    """Where the class means are now, [C, V d], by the map from queries that is shrunk towards the identity."""
    count, (vectors, dim, _) = anchor.images, anchor.gram.shape
    centre, target = anchor.queries / count, anchor.features / count
    first, second = centre.view(vectors, dim), target.view(vectors, dim)
    gram = anchor.gram / count - first[:, :, None] * first[:, None]
    cross = anchor.cross / count - first[:, :, None] * second[:, None]
    matrices = [towards_identity(x, y, penalty) for x, y in zip(gram, cross, strict=True)]
    return Move(centre, target, torch.stack(matrices)).points(anchor.means)
