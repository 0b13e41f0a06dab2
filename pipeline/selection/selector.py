"""Which task's LayerNorms an image gets: a score for every task so far, from the image's query alone.

A selector's state is a dict of tensors, learned task by task (pipeline.selection.mappers); `SCORES` maps it and
queries [B, D] to scores [B, T], of which the highest wins. Scores of old tasks may change when a task arrives.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import UserError
from pipeline.linear import gaussians, ridge
from pipeline.linear.gaussians import Gaussians
from pipeline.linear.ridge import Ridge
from pipeline.selection.key import cosine

State = Mapping[str, Tensor]  # `task` [R]: to which task each of R rows belongs; empty before the first task
Selection = Literal["query", "layerwise", "oracle", "latest", "average"]
ONE_MODEL = ("latest", "average")  # selections that keep a single set of LayerNorms for all tasks

ENTROPY = "entropy"  # the selector that judges by the outputs of every task's model, not by the query

PENALTY = 0.1  # of the ridge regression


def select_tasks(selection: Selection, selector: str, queries: Tensor, own_tasks: Tensor, state: State) -> Tensor:
    """Zero-based task whose LayerNorms each image gets, among those of the state: int64 [B].

    selection: `query`, by the selector from queries [B, D]; `oracle`, the image's own task [B]; `latest` and
    `average`, always the newest. Raises UserError for an unknown selector.
    """
    if selection == "oracle":
        return own_tasks
    if selection in ONE_MODEL:
        return torch.full_like(own_tasks, num_tasks(state) - 1)
    assert selection == "query", f"{selection} chooses within the backbone"
    return find_selector(selector)(state, queries).argmax(1)


def chooses(selection: str, tuning: str) -> bool:
    """Whether images run under the LayerNorms of one task or another: not where one model serves all of them."""
    return tuning == "layernorm" and selection not in ONE_MODEL


def num_tasks(state: State) -> int:
    """Tasks that a state has learned."""
    return int(state["task"].max()) + 1 if state else 0


def best_of_tasks(scores: Tensor, task: Tensor) -> Tensor:
    """The highest score of each task: [B, R] of rows that belong to tasks [R] -> [B, T]."""
    best = torch.full((len(scores), int(task.max()) + 1), -math.inf, dtype=scores.dtype)
    return best.scatter_reduce(1, task.expand(len(scores), -1), scores, "amax")


def likelihood_of_tasks(scores: Tensor, task: Tensor) -> Tensor:
    """The logarithm of the sum of each task's likelihoods, given as logarithms: [B, R] -> [B, T]."""
    top = scores.max(1, keepdim=True).values
    sums = torch.zeros(len(scores), int(task.max()) + 1, dtype=scores.dtype)
    return sums.index_add_(1, task, (scores - top).exp()).log() + top


def _nearest_prototype(state: State, queries: Tensor) -> Tensor:
    return best_of_tasks(cosine(queries, state["prototypes"]), state["task"])


def _mixture_likelihood(state: State, queries: Tensor) -> Tensor:
    """log p(q | task) but for a constant, every task as likely as any other."""
    directions = functional.normalize(queries, dim=1).double()
    means, variances = state["means"], state["variances"]
    distances = (
        directions.square() @ (1 / variances).T
        - 2 * directions @ (means / variances).T
        + (means.square() / variances).sum(1)
    )
    densities = state["log_weights"] - (distances + variances.log().sum(1)) / 2
    return likelihood_of_tasks(densities, state["task"])


def _class_likelihood(state: State, queries: Tensor) -> Tensor:
    """log p(task | q) but for a constant, classes equally likely."""
    head = gaussians.linear_discriminant(gaussians_of(state), gaussians.SHRINKAGE)
    return likelihood_of_tasks(head.logits(queries), state["task"])


def _class_response(state: State, queries: Tensor) -> Tensor:
    """The highest response among a task's classes."""
    head = ridge.solve(Ridge(state["gram"], state["targets"]), PENALTY)
    return best_of_tasks(head.logits(functional.normalize(queries, dim=1)), state["task"])


def _perceptron_logits(state: State, queries: Tensor) -> Tensor:
    return functional.linear(queries, state["weight"], state["bias"])


def _category_choice(state: State, queries: Tensor) -> Tensor:
    weights = state["categories"]
    codes = complement_code(queries, state)
    choices = [torch.minimum(code, weights).sum(1) / (1e-3 + weights.sum(1)) for code in codes]
    return best_of_tasks(torch.stack(choices), state["task"])


def gaussians_of(state: State) -> Gaussians:
    """The class Gaussians of a state."""
    return Gaussians(state["counts"], state["means"], state["scatter"])


def complement_code(queries: Tensor, scaling: State) -> Tensor:
    """Codes [e, 1 - e] in [0, 1] of queries: [B, D] -> [B, 2 D]; `low` and `high` [D] become 0 and 1."""
    unit = ((queries - scaling["low"]) / (scaling["high"] - scaling["low"])).clamp(0, 1)
    return torch.cat([unit, 1 - unit], dim=1)


SCORES: dict[str, Callable[[State, Tensor], Tensor]] = {
    "key": _nearest_prototype,
    "class_prototypes": _nearest_prototype,
    "kmeans": _nearest_prototype,
    "gmm": _mixture_likelihood,
    "lda": _class_likelihood,
    "ridge": _class_response,
    "perceptron": _perceptron_logits,
    "fuzzy_art": _category_choice,
}


def lowest_entropy(logits: Sequence[Tensor]) -> Tensor:
    """The task [B] whose own head is surest, from each task's logits over its classes [B, K_t].

    Entropies are compared as shares of their maximum, so that tasks of unequal size are. The baseline of arXiv
    2011.04783: it needs a pass under the LayerNorms of every task. The head of a single class is sure of any image,
    which says nothing: it counts as unsure.
    """
    entropies = []
    for of_task in logits:
        if of_task.shape[1] == 1:
            entropies.append(torch.ones(len(of_task)))
            continue
        log_share = of_task.log_softmax(1)
        entropy = -(log_share.exp() * log_share).sum(1)
        entropies.append(entropy / math.log(of_task.shape[1]))
    return torch.stack(entropies, dim=1).argmin(1)


def find_selector(name: str) -> Callable[[State, Tensor], Tensor]:
    """The scores of a selector. Raises UserError for an unknown name."""
    check_selector(name)
    return SCORES["key" if name == ENTROPY else name]  # where nothing is tuned, any choice gives the same


def check_selector(name: str) -> None:
    """Raises UserError for an unknown name."""
    if name not in (*SCORES, ENTROPY):
        raise UserError(f"params.yaml: selector {name!r} is unknown: choose one of {', '.join((*SCORES, ENTROPY))}")
