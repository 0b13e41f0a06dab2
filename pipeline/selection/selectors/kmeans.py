"""`selector: kmeans`: ten centres per task; the task of the most similar centre wins (NMC of arXiv 2011.04783)."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.seeds import draw_seed
from pipeline.selection.prototypes import nearest_prototype, prototype_rows
from pipeline.selection.selector import Selector, TaskQueries
from pipeline.selection.state import State, add_rows

CENTRES = 10  # per task


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the centres that k-means finds among the directions of the task's queries."""
    from sklearn.cluster import KMeans  # noqa: PLC0415  (takes a second; other selectors do not need it)

    directions = functional.normalize(task.queries, dim=1)
    clusters = min(CENTRES, len(directions.unique(dim=0)))
    model = KMeans(clusters, n_init=4, random_state=draw_seed(generator)).fit(directions.numpy())
    return add_rows(state, prototypes=torch.from_numpy(model.cluster_centers_).float())


SELECTOR = Selector(
    learn,
    nearest_prototype,
    "Each task has ten centres; the task with the most similar one is selected.",
    rows=prototype_rows,
)
