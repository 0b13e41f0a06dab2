"""`classifier: ranpac`: ridge regression on random features as published (RanPAC, NeurIPS 2023).

Features f [N, D] become h = relu(f W) with W [D, M] from N(0, 1) and M = 10,000 for D = 768; other backbones get the
same ratio. There is no intercept. The strength is the power of ten from -8 to 8 with the least squared error on the
last fifth of the task's images, after a fit on the others; the solution is that of the sums of all tasks. The authors'
loader shuffles the images before this cut. So does this code, since our images are sorted by class.

`ridge_projected` is the same with an intercept, 2,000 units and one strength chosen on held-out images.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear import ridge
from pipeline.linear.classes import add_columns, numbers
from pipeline.linear.head import Head, random_features
from pipeline.linear.ridge import Ridge

UNITS_PER_DIM = 10_000 / 768
STRENGTHS = tuple(10.0**power for power in range(-8, 9))


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add the task's sums over random features, choose the strength on its images, and solve again."""
    dim = features.own.shape[1]
    layer = torch.randn(dim, round(UNITS_PER_DIM * dim), generator=training.generator)
    order = torch.randperm(len(features.labels), generator=training.generator)
    projection = state["projection"] if state else functional.pad(layer, (0, 0, 0, 1))
    inputs = random_features(features.own, projection).double()
    one_hot = functional.one_hot(features.labels).double()
    after = Ridge(inputs.T @ inputs, inputs.T @ one_hot)
    if state:
        classes = numbers(features.classes, state["targets"].shape[1], one_hot.shape[1])
        after = Ridge(state["gram"] + after.gram, add_columns(state["targets"], after.targets, classes))
    solution = ridge.solve_at(after, best_strength(inputs[order], one_hot[order]))
    head = Head(solution.T.float().contiguous(), torch.zeros(solution.shape[1]), projection)
    return after._asdict() | {"projection": projection}, head


def best_strength(inputs: Tensor, targets: Tensor) -> float:
    """The strength with the least error on the last fifth of the samples, after a fit on the others.

    inputs: [N, M]; targets: [N, C]. All strengths share one decomposition, of the smaller of X X' and X' X.
    """
    cut = int(0.8 * len(inputs))
    if not 0 < cut < len(inputs):  # a single image
        return 1.0
    fit, held_out = inputs[:cut], inputs[cut:]
    left, values, right = torch.linalg.svd(fit, full_matrices=False)
    seen, wanted = held_out @ right.T, left.T @ targets[:cut]  # [n, r], [r, C]
    errors = [
        functional.mse_loss(seen @ ((values / (values.square() + strength))[:, None] * wanted), targets[cut:])
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(torch.stack(errors).argmin())]


CLASSIFIER = Classifier(
    learn,
    """One regression from random features onto all classes, solved from sums that add up over tasks, so no task is
        favoured. Each task chooses the strength of the penalty anew, on a fifth of its images.""",
    draws_layer=True,
)
