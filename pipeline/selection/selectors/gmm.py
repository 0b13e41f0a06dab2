"""`selector: gmm`: a mixture of ten Gaussians per task; the most likely task wins (GMMC of arXiv 2011.04783)."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.seeds import draw_seed
from pipeline.selection.selector import Selector, TaskQueries
from pipeline.selection.state import State, add_rows, likelihood_of_tasks

COMPONENTS = 10  # per task
_LEAST_VARIANCE = 1e-9  # for identical images


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the task's mixture with diagonal covariances, fitted to the directions of its queries."""
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415  (takes a second; other selectors do not need it)

    directions = functional.normalize(task.queries, dim=1).double()
    count = min(COMPONENTS, len(directions.unique(dim=0)))
    samples = directions.repeat(max(1, 3 - len(directions)), 1).numpy()  # scikit-learn needs two
    least = max(float(samples.var(0).mean()) / 10, _LEAST_VARIANCE)
    model = GaussianMixture(count, covariance_type="diag", reg_covar=least, random_state=draw_seed(generator))
    model.fit(samples)
    means, variances, weights = map(torch.from_numpy, (model.means_, model.covariances_, model.weights_))
    return add_rows(state, means=means, variances=variances, log_weights=weights.log())


def scores(state: State, queries: Tensor) -> Tensor:
    """log p(q | task) up to a constant, with all tasks equally likely: [B, T]."""
    directions = functional.normalize(queries, dim=1).double()
    means, variances = state["means"], state["variances"]
    distances = (
        directions.square() @ (1 / variances).T
        - 2 * directions @ (means / variances).T
        + (means.square() / variances).sum(1)
    )
    densities = state["log_weights"] - (distances + variances.log().sum(1)) / 2
    return likelihood_of_tasks(densities, state["task"])


SELECTOR = Selector(learn, scores, "The task whose mixture of ten Gaussians makes the query most likely is selected.")
