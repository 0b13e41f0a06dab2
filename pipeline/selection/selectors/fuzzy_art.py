"""`selector: fuzzy_art`: categories of Fuzzy ART with fast learning (arXiv 2011.04783).

Complement coding I = [e, 1 - e]; choice |I ^ w| / (alpha + |w|); match |I ^ w| / |I| >= vigilance. Categories of
earlier tasks do not change.
"""

import torch
from torch import Tensor

from pipeline.selection.selector import Selector, TaskQueries
from pipeline.selection.state import State, add_rows, best_of_tasks

VIGILANCE = 0.7
_ALPHA = 1e-3


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the categories that the task's queries form."""
    del generator
    scaling = {name: state[name] for name in ("low", "high")} if state else _range(task.queries)
    categories: list[Tensor] = []
    for code in complement_code(task.queries, scaling):
        if categories:
            weights = torch.stack(categories)
            overlap = torch.minimum(code, weights).sum(1)
            order = (overlap / (_ALPHA + weights.sum(1))).argsort(descending=True)
            fitting = order[(overlap / code.sum())[order] >= VIGILANCE]
            if len(fitting):
                categories[int(fitting[0])] = torch.minimum(code, weights[fitting[0]])
                continue
        categories.append(code)
    return add_rows(state, categories=torch.stack(categories)) | scaling


def scores(state: State, queries: Tensor) -> Tensor:
    """The highest choice value among the categories of each task: [B, T]."""
    weights = state["categories"]
    choices = [
        torch.minimum(code, weights).sum(1) / (_ALPHA + weights.sum(1)) for code in complement_code(queries, state)
    ]
    return best_of_tasks(torch.stack(choices), state["task"])


def complement_code(queries: Tensor, scaling: State) -> Tensor:
    """Codes [e, 1 - e] in [0, 1] of queries: [B, D] -> [B, 2 D]. `low` and `high` [D] are mapped to 0 and 1."""
    unit = ((queries - scaling["low"]) / (scaling["high"] - scaling["low"])).clamp(0, 1)
    return torch.cat([unit, 1 - unit], dim=1)


def _range(queries: Tensor) -> dict[str, Tensor]:
    """The values mapped to 0 and 1 in each coordinate: three standard deviations around the first task's mean."""
    mean = queries.mean(0)
    deviation = queries.std(0, correction=min(1, len(queries) - 1)).clamp(min=1e-6)  # 0 for a single image
    return {"low": mean - 3 * deviation, "high": mean + 3 * deviation}


SELECTOR = Selector(learn, scores, "The task with the best matching category of Fuzzy ART is selected.")
