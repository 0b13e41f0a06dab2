"""How selectors learn: one task more, from its queries and labels alone.

Most are the mappers of Lifelong Learning Without a Task Oracle (arXiv 2011.04783). `LEARN` maps the state so far, a
task's queries [N, D], labels [N] and a generator to the new state; pipeline.selection.selector
turns states into scores.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.linear import gaussians, ridge
from pipeline.linear.head import Head
from pipeline.linear.ridge import Ridge
from pipeline.linear.softmax import train_softmax
from pipeline.selection.key import closed_form_key
from pipeline.selection.selector import State, complement_code, gaussians_of, num_tasks

PROTOTYPES = 10  # of a task: k-means, mixture
PSEUDO_QUERIES = 64  # of a class: perceptron
VIGILANCE = 0.7  # Fuzzy ART
_LEAST_VARIANCE = 1e-9  # of a mixture, where all images are the same


def _tasks(state: State, rows: int) -> Tensor:
    """The task of each row, where the newest task adds so many."""
    new = torch.full((rows,), num_tasks(state))
    return torch.cat([state["task"], new]) if state else new


def _add_rows(state: State, **rows: Tensor) -> dict[str, Tensor]:
    """One more task's rows of some tensors, and to which task each belongs."""
    count = len(next(iter(rows.values())))
    longer = {name: torch.cat([state[name], values]) if state else values for name, values in rows.items()}
    return longer | {"task": _tasks(state, count)}


def add_prototype(state: State, key: Tensor) -> dict[str, Tensor]:
    """The paper's selector: a single prototype a task, its key [D]."""
    return _add_rows(state, prototypes=key[None])


def _learn_class_prototypes(
    state: State, queries: Tensor, labels: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The key of each class."""
    del generator
    keys = [closed_form_key(queries[labels == c]) for c in range(int(labels.max()) + 1)]
    return _add_rows(state, prototypes=torch.stack(keys))


def _learn_kmeans(state: State, queries: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Centres of k-means on the directions of a task's queries (NMC of arXiv 2011.04783)."""
    del labels
    from sklearn.cluster import KMeans  # noqa: PLC0415  (a second that the other selectors do without)

    directions = functional.normalize(queries, dim=1)
    clusters = min(PROTOTYPES, len(directions.unique(dim=0)))
    model = KMeans(clusters, n_init=4, random_state=_seed(generator)).fit(directions.numpy())
    return _add_rows(state, prototypes=torch.from_numpy(model.cluster_centers_).float())


def _learn_mixture(state: State, queries: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """A mixture of Gaussians with diagonal covariances a task (GMMC of arXiv 2011.04783), on directions."""
    del labels
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    directions = functional.normalize(queries, dim=1).double()
    count = min(PROTOTYPES, len(directions.unique(dim=0)))
    samples = directions.repeat(max(1, 3 - len(directions)), 1).numpy()  # scikit-learn asks for two
    least = max(float(samples.var(0).mean()) / 10, _LEAST_VARIANCE)
    model = GaussianMixture(count, covariance_type="diag", reg_covar=least, random_state=_seed(generator))
    model.fit(samples)
    means, variances, weights = map(torch.from_numpy, (model.means_, model.covariances_, model.weights_))
    return _add_rows(state, means=means, variances=variances, log_weights=weights.log())


def _learn_gaussians(state: State, queries: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Statistics of class Gaussians with a shared covariance."""
    del generator
    before = gaussians_of(state) if state else gaussians.no_gaussians(queries.shape[1])
    after = gaussians.add_classes(before, queries, labels)
    return after._asdict() | {"task": _tasks(state, len(after.means) - len(before.means))}


def _learn_ridge(state: State, queries: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Sums of a recursive ridge regression onto classes, on directions."""
    del generator
    before = Ridge(state["gram"], state["targets"]) if state else ridge.no_ridge(queries.shape[1])
    after = ridge.add_task(before, functional.normalize(queries, dim=1), labels)
    return after._asdict() | {"task": _tasks(state, after.targets.shape[1] - before.targets.shape[1])}


def _learn_perceptron(state: State, queries: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """One layer over the tasks, trained anew on pseudo-queries from the class Gaussians of all tasks so far.

    PCR of arXiv 2011.04783, which replays stored features instead.
    """
    new = _learn_gaussians(state, queries, labels, generator)
    drawn, classes = gaussians.sample(gaussians_of(new), PSEUDO_QUERIES, gaussians.SHRINKAGE, generator)
    mean, deviation = drawn.mean(0), drawn.std(0)
    inputs, task = (drawn - mean) / deviation, new["task"][classes]
    tasks = int(task.max()) + 1
    start = Head(torch.zeros(tasks, inputs.shape[1]), torch.zeros(tasks))
    head = train_softmax(start, inputs[None], task, batch_size=128, lr=0.01, epochs=20, generator=generator)
    scaled = head.weight / deviation
    return new | {"weight": scaled, "bias": head.bias - scaled @ mean}


def _learn_fuzzy_art(state: State, queries: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Categories of Fuzzy ART with fast learning, a task's own; those of earlier tasks stay (arXiv 2011.04783).

    Complement coding I = [e, 1 - e]; choice |I ^ w| / (alpha + |w|); match |I ^ w| / |I| >= vigilance.
    """
    del labels, generator
    scaling = {name: state[name] for name in ("low", "high")} if state else _range(queries)
    categories: list[Tensor] = []
    for code in complement_code(queries, scaling):
        if categories:
            weights = torch.stack(categories)
            overlap = torch.minimum(code, weights).sum(1)
            order = (overlap / (1e-3 + weights.sum(1))).argsort(descending=True)
            fitting = order[(overlap / code.sum())[order] >= VIGILANCE]
            if len(fitting):
                categories[int(fitting[0])] = torch.minimum(code, weights[fitting[0]])
                continue
        categories.append(code)
    return _add_rows(state, categories=torch.stack(categories)) | scaling


def _range(queries: Tensor) -> dict[str, Tensor]:
    """What becomes 0 and 1 in each coordinate: three deviations around the first task's mean."""
    mean = queries.mean(0)
    deviation = queries.std(0, correction=min(1, len(queries) - 1)).clamp(min=1e-6)  # of a single image: none
    return {"low": mean - 3 * deviation, "high": mean + 3 * deviation}


def _seed(generator: torch.Generator) -> int:
    """For scikit-learn."""
    return int(torch.randint(2**31 - 1, (), generator=generator))


LEARN: dict[str, Callable[[State, Tensor, Tensor, torch.Generator], dict[str, Tensor]]] = {
    "class_prototypes": _learn_class_prototypes,
    "kmeans": _learn_kmeans,
    "gmm": _learn_mixture,
    "lda": _learn_gaussians,
    "ridge": _learn_ridge,
    "perceptron": _learn_perceptron,
    "fuzzy_art": _learn_fuzzy_art,
}
