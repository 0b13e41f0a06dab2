"""Compute a task's key from the queries of its training images, and the selector's state after the task."""

from typing import Literal

from pipeline.layout import Layout
from pipeline.params import Count, Rate, Record, Seed, read_params
from pipeline.runtime.command import Task, run
from pipeline.seeds import generator
from pipeline.selection.key import closed_form_key, trained_key
from pipeline.selection.selector import TaskQueries, find_selector
from pipeline.store import artifacts
from pipeline.store.cumulative import append_rows
from pipeline.tasks import task_index, task_name


class Params(Record):
    """How keys are computed, and which selector is used."""

    seed: Seed
    selector: str
    key_method: Literal["closed_form", "sgd"]
    key_lr: Rate
    key_epochs: Count


def main(task: Task) -> None:
    """Compute the key of TASK (t1, t2, ...), and the selector's state after it."""
    params = read_params(Params)
    selector = find_selector(params.selector)
    index = task_index(task)
    queries = artifacts.load_tensors(artifacts.train_queries_file(task))["queries"]
    labels = artifacts.load_tensors(artifacts.train_file(task))["labels"]
    layout = Layout.from_metadata(artifacts.load_metadata(artifacts.train_queries_file(task)))
    keys, state = (
        artifacts.load_tensors(file(task_name(index - 1))) for file in (artifacts.keys_file, artifacts.selector_file)
    )
    if params.key_method == "closed_form":
        key = closed_form_key(queries)
    else:
        random = generator(params.seed, "keys", index)
        key = trained_key(queries, lr=params.key_lr, epochs=params.key_epochs, generator=random)
    # A generator of its own: what the key has drawn must not change a selector that does not read it.
    random = generator(params.seed, "keys", index)
    state = dict(selector.learn(state, TaskQueries(queries, labels, key, layout.vectors), random))
    artifacts.save_tensors(artifacts.selector_file(task), state)
    artifacts.save_tensors(artifacts.keys_file(task), append_rows(keys, {"keys": key[None]}))
    print(f"key of {task}, {params.key_method}; selector: {params.selector}")


if __name__ == "__main__":
    run(main)
