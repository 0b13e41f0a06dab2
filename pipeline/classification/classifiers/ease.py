"""`classifier: ease`: prototypes in the subspace of every task's model (EASE, arXiv 2403.12030).

With `selection: all`, a feature is the outputs under the models of all T tasks, side by side and of length 1 each. A
new class gets a prototype in every subspace: the mean of its features there. For an old class no image is left when a
new subspace comes. Its prototype there is a mixture of those of the classes that have come since, the newest included,
weighted by how similar it is to them in its own task's subspace: softmax(cos(p_old, p_later)). A score is the cosine in
the class's own subspace plus 0.1 times the mean of those in all others. Both are as in the released code. With any
other selection there is one subspace, and this is the nearest class mean by cosine.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear.head import Head

OTHERS = 0.1  # weight of the subspaces of other tasks together, as released


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Add prototypes [C, T, D] of the task's classes, and those of old classes in a new subspace."""
    del training
    samples, labels = features.samples()
    sums = torch.zeros(int(labels.max()) + 1, samples.shape[1]).index_add_(0, labels, samples)
    new = (sums / labels.bincount()[:, None]).unflatten(1, (-1, features.own.shape[1]))
    subspaces = new.shape[1]
    own = torch.full((len(new),), subspaces - 1)
    if state:
        old = functional.pad(state["prototypes"], (0, 0, 0, subspaces - state["prototypes"].shape[1]))
        new, own = torch.cat([old, new]), torch.cat([state["own"], own])
    for subspace in range(1, subspaces):
        later = own >= subspace  # real prototypes here and in all earlier subspaces
        new[~later, subspace] = mixtures(new[~later], own[~later], new[later], subspace)
    weights = torch.full(new.shape[:2], OTHERS / max(subspaces - 1, 1)).scatter_(1, own[:, None], 1.0)
    weights = functional.normalize(new, dim=2) * weights[..., None]
    return {"prototypes": new, "own": own}, Head(weights.flatten(1), torch.zeros(len(weights)))


def mixtures(old: Tensor, own: Tensor, later: Tensor, subspace: int) -> Tensor:
    """Prototypes [C, D] of old classes in a newer subspace.

    old: [C, T, D]; own: [C], the own subspace of each; later: [K, T, D] of classes that have come with it or after it.
    """
    theirs = functional.normalize(old[torch.arange(len(old)), own], dim=1)  # [C, D]
    others = functional.normalize(later, dim=2)[:, own].transpose(0, 1)  # [C, K, D]
    shares = torch.einsum("cd,ckd->ck", theirs, others).softmax(1)
    return shares @ later[:, subspace]


CLASSIFIER = Classifier(
    learn,
    """Each class has a prototype under the model of every task. Those of old classes under newer models are mixtures of
        later classes' prototypes, as similar as the classes are. The cosine under the own task's model counts
        most.""",
    side_by_side=True,
    each_class_once=lambda _: True,  # a prototype has one subspace of its own
    sees_views=True,
)
