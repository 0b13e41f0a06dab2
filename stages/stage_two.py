"""Stage two: learn a task's classes from features computed as at inference, for C-LN and for the baselines."""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification import lone
from pipeline.classification.classifier import Learn, State, TaskFeatures, Training, find_classifier
from pipeline.classification.classifiers import lda, ncm
from pipeline.classification.rows import new_softmax
from pipeline.layout import Layout
from pipeline.linear.head import Head, task_heads, widened
from pipeline.linear.steps import append_step
from pipeline.params import Count, Rate, Record, Seed, read_block, read_params
from pipeline.progress import Progress
from pipeline.runtime.command import Task, run
from pipeline.seeds import generator
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from pipeline.tasks import task_index, task_name


class Params(Record):
    """Which classifier, and how to train it."""

    seed: Seed
    order: Literal["sequential", "joint"]
    training: Literal["two_stage", "single_stage"]
    classifier: str
    classifier_init: Literal["fresh", "auxiliary"]
    classifier_lr: Rate
    classifier_batch_size: Count
    classifier_epochs: Count


def main(task: Task) -> None:
    """Learn the classes of TASK (t1, t2, ...)."""
    params = read_params(Params)
    index = task_index(task)
    classifier = find_classifier(params.classifier)
    options = read_block(params.classifier, classifier.options)
    train = artifacts.load_tensors(artifacts.train_file(task))
    labels, classes = train["labels"], class_numbers(train["labels"], train["classes"])
    stored = artifacts.load_tensors(artifacts.features_file(task))
    queries = artifacts.load_tensors(artifacts.train_queries_file(task))["queries"]
    # Without tuning, stage one trains no head. A head on the frozen backbone's features takes its place.
    of_tasks = task_heads(artifacts.load_tensors(artifacts.auxiliary_heads_file(task)))
    auxiliary = of_tasks[index] if index < len(of_tasks) else None
    before = artifacts.load_tensors(artifacts.heads_file(task_name(index - 1)))
    layout, of_queries = (
        Layout.from_metadata(artifacts.load_metadata(file(task)))
        for file in (artifacts.features_file, artifacts.train_queries_file)
    )
    own = stored["own_features"]
    beside = queries.repeat(1, own.shape[1] // queries.shape[1])  # twice, if a feature begins with the frozen output
    tuned = TaskFeatures(
        stored["train_features"],
        own,
        stored.get("previous_features"),
        labels,
        classes,
        index,
        layout,
        beside,
        stored.get("previous_views"),
    )
    frozen = TaskFeatures(queries[None], queries, queries, labels, classes, index, of_queries, queries)
    if auxiliary:  # it knows the first numbers of the tuned output; a frozen output that stands before is skipped
        skipped, dim = own.shape[1] - queries.shape[1], queries.shape[1]
        auxiliary = auxiliary._replace(weight=functional.pad(widened(auxiliary, dim).weight, (skipped, 0)))
    # Features of all tasks side by side are for one classifier alone: no other gets along with ever longer ones.
    of_own = tuned if tuned.views.shape[2] == own.shape[1] else replace(tuned, views=own[None])

    if int(labels.max()) == 0 and (classifier.needs_classes or params.training == "single_stage"):
        print(f"stage two, {task}: a softmax over one class learns nothing: the row comes from the class's mean")

    def keep_auxiliary(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
        """Add the head that stage one trained. A class alone in its task: pipeline.classification.lone."""
        fresh = partial(new_softmax, features.views, features.labels, training)
        return lone.learn(state, features, (lambda: auxiliary) if auxiliary else fresh)

    rows: dict[str, tuple[TaskFeatures, Learn]] = {
        "auxiliary": (of_own, keep_auxiliary),
        "frozen_ncm": (frozen, ncm.learn),
        "frozen_lda": (frozen, lda.learn),
        "frozen": (frozen, classifier.learn),
        "tuned_lda": (of_own, lda.learn),
        "tuned": (tuned, keep_auxiliary if params.training == "single_stage" else classifier.learn),
    }
    new: dict[str, Tensor] = {}
    for name, (features, learn_row) in rows.items():
        # In joint training every task contains all classes so far, so the classifier starts anew.
        state = {} if params.order == "joint" else part(before, f"{name}.state.")
        start = auxiliary if name == "tuned" and params.classifier_init == "auxiliary" else None
        with Progress(f"stage two, {task}, {name}", params.classifier_epochs * len(labels)) as progress:
            # Joint steps start anew, but the heads of all steps are stored behind one layer of random units.
            is_drawn_again = params.order == "joint" and classifier.draws_layer and learn_row is classifier.learn
            random = generator(params.seed, "stage_two", 0 if is_drawn_again else index)
            training = Training(
                params.classifier_batch_size,
                params.classifier_lr,
                params.classifier_epochs,
                start,
                random,
                progress,
                options=options if learn_row is classifier.learn and not name.endswith("_lda") else None,
            )
            state, head = learn_row(state, features, training)
        if params.order == "joint":
            head = head._replace(tasks=None)  # the newest task has learned the classes of all
        heads = append_step(part(before, f"{name}.head."), head)
        new |= {f"{name}.state.{field}": tensor for field, tensor in state.items()}
        new |= {f"{name}.head.{field}": tensor for field, tensor in heads.items()}
        if head.projection is not None:
            new[f"{name}.projection"] = head.projection.clone()
    artifacts.save_tensors(artifacts.heads_file(task), new)


def class_numbers(labels: Tensor, classes: Tensor) -> Tensor:
    """The number among all classes of each of the task's [K], from both for every image [N]."""
    return torch.zeros(int(labels.max()) + 1, dtype=torch.int64).index_copy_(0, labels, classes)


if __name__ == "__main__":
    run(main)
