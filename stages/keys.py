"""A key for each task, from the queries of its training images."""

from typing import Literal

import torch
from pydantic import Field

from pipeline import artifacts
from pipeline.command import run
from pipeline.key import closed_form_key, trained_key
from pipeline.params import Record, read_params
from pipeline.seeds import generator


class Params(Record):
    """How the keys come about."""

    seed: int = Field(ge=0)
    key_method: Literal["closed_form", "sgd"]
    key_lr: float = Field(gt=0)
    key_epochs: int = Field(ge=1)


def main() -> None:
    """Compute the key of every task."""
    params = read_params(Params)
    keys = []
    for task, name in enumerate(artifacts.load_json(artifacts.TASKS)):
        queries = artifacts.load_tensors(artifacts.train_queries_file(name))["queries"]
        if params.key_method == "closed_form":
            keys.append(closed_form_key(queries))
        else:
            random = generator(params.seed, "keys", task)
            keys.append(trained_key(queries, lr=params.key_lr, epochs=params.key_epochs, generator=random))
    artifacts.save_tensors(artifacts.KEYS, {"keys": torch.stack(keys)})
    print(f"{len(keys)} keys, {params.key_method}")


if __name__ == "__main__":
    run(main)
