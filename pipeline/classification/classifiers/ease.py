"""`classifier: ease`: prototypes in the subspace of every task's model (EASE, arXiv 2403.12030).

With `selection: all`, a feature is the outputs under the models of all tasks, side by side and of length 1 each. A new
class gets a prototype in every subspace: the mean of its features there. For an old class no image is left when a new
subspace comes. Its prototype there is a mixture of those of the new classes, weighted by how similar it is to them in
its own task's subspace: softmax(cos(p_old, p_new)). A score is the cosine in the class's own subspace plus 0.1 times
those in all others. With any other selection there is one subspace, and this is the nearest class mean by cosine.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear.head import Head

OTHERS = 0.1  # weight of the subspaces of other tasks, as published


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add prototypes [C, T, D] of the task's classes, and those of old classes in a new subspace."""
    del training
    samples, labels = features.samples()
    sums = torch.zeros(int(labels.max()) + 1, samples.shape[1]).index_add_(0, labels, samples)
    new = (sums / labels.bincount()[:, None]).unflatten(1, (-1, features.own.shape[1]))
    subspaces = new.shape[1]
    own = torch.full((len(new),), subspaces - 1)
    if state:
        old, of_old = state["prototypes"], state["own"]
        for subspace in range(old.shape[1], subspaces):
            old = torch.cat([old, mixtures(old, of_old, new, subspace)[:, None]], 1)
        new, own = torch.cat([old, new]), torch.cat([of_old, own])
    weights = (
        functional.normalize(new, dim=2) * torch.full(new.shape[:2], OTHERS).scatter_(1, own[:, None], 1.0)[..., None]
    )
    return {"prototypes": new, "own": own}, Head(weights.flatten(1), torch.zeros(len(weights)))


def mixtures(old: Tensor, own: Tensor, new: Tensor, subspace: int) -> Tensor:
    """Prototypes [C, D] of old classes in a new subspace.

    old: [C, T, D]; own: [C], the own subspace of each; new: [K, T + 1, D] of the new classes.
    """
    theirs = functional.normalize(old[torch.arange(len(old)), own], dim=1)  # [C, D]
    others = functional.normalize(new, dim=2)[:, own].transpose(0, 1)  # [C, K, D]
    shares = torch.einsum("cd,ckd->ck", theirs, others).softmax(1)
    return shares @ new[:, subspace]


CLASSIFIER = Classifier(
    learn,
    """Each class has a prototype under the model of every task. Those of old classes under newer models are mixtures of
        the new classes' prototypes, as similar as the classes are. The cosine under the own task's model counts
        most.""",
    side_by_side=True,
)
