"""Compute one key per task from the queries of its training images, and the selector's state after each task."""

from typing import Literal

import torch

from pipeline.layout import Layout
from pipeline.params import Count, Rate, Record, Seed, read_params
from pipeline.runtime.command import run
from pipeline.seeds import generator
from pipeline.selection.key import closed_form_key, trained_key
from pipeline.selection.selector import TaskQueries, find_selector
from pipeline.store import artifacts
from pipeline.tasks import Chain


class Params(Record):
    """How keys are computed, and which selector is used."""

    seed: Seed
    tasks: Chain
    selector: str
    key_method: Literal["closed_form", "sgd"]
    key_lr: Rate
    key_epochs: Count


def main() -> None:
    """Compute the key of every task, and the selector's state after every task."""
    params = read_params(Params)
    selector = find_selector(params.selector)
    keys: list[torch.Tensor] = []
    state: dict[str, torch.Tensor] = {}
    for task, name in enumerate(params.tasks):
        queries = artifacts.load_tensors(artifacts.train_queries_file(name))["queries"]
        labels = artifacts.load_tensors(artifacts.train_file(name))["labels"]
        layout = Layout.from_metadata(artifacts.load_metadata(artifacts.train_queries_file(name)))
        random = generator(params.seed, "keys", task)
        if params.key_method == "closed_form":
            keys.append(closed_form_key(queries))
        else:
            keys.append(trained_key(queries, lr=params.key_lr, epochs=params.key_epochs, generator=random))
        state = selector.learn(state, TaskQueries(queries, labels, keys[-1], layout.vectors), random)
        artifacts.save_tensors(artifacts.selector_file(name), state)
    artifacts.save_tensors(artifacts.KEYS, {"keys": torch.stack(keys)})
    print(f"{len(keys)} keys, {params.key_method}; selector: {params.selector}")


if __name__ == "__main__":
    run(main)
