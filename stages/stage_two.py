"""Stage two of a task: its classifier rows, on features computed as at inference; and those of the baselines."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from pipeline import artifacts
from pipeline.classifier import HeadSchedule, find_classifier, nearest_mean_head
from pipeline.command import run
from pipeline.cumulative import append_rows
from pipeline.head import Head
from pipeline.params import Record, read_params
from pipeline.progress import Progress
from pipeline.seeds import generator
from pipeline.tasks import task_index, task_name


class Params(Record):
    """Which classifier, and how to train it."""

    seed: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    training: Literal["two_stage", "single_stage"]
    classifier: str
    classifier_init: Literal["fresh", "auxiliary"]
    classifier_lr: float = Field(gt=0)
    classifier_epochs: int = Field(ge=1)


def main(task: str) -> None:
    """Train the classifier rows of TASK (t1, t2, ...)."""
    params = read_params(Params)
    index = task_index(task)
    train = find_classifier(params.classifier)
    schedule = HeadSchedule(params.batch_size, params.classifier_lr, params.classifier_epochs)
    labels = artifacts.load_tensors(artifacts.train_file(task))["labels"]
    features = artifacts.load_tensors(artifacts.features_file(task))["train_features"]
    queries = artifacts.load_tensors(artifacts.train_queries_file(task))["queries"]

    auxiliary = artifacts.load_tensors(artifacts.auxiliary_head_file(task))
    heads = {
        "auxiliary": Head(auxiliary["weight"], auxiliary["bias"]),
        "frozen_ncm": nearest_mean_head(queries, labels),
    }
    inputs: dict[str, tuple[Tensor, Head | None]] = {"frozen": (queries[None], None)}
    if params.training == "two_stage":
        inputs["tuned"] = (features, heads["auxiliary"] if params.classifier_init == "auxiliary" else None)
    else:
        heads["tuned"] = Head(*(tensor.clone() for tensor in heads["auxiliary"]))
    for name, (values, start) in inputs.items():
        with Progress(f"stage two, {task}, {name}", params.classifier_epochs * len(labels)) as progress:
            heads[name] = train(
                values,
                labels,
                start=start,
                schedule=schedule,
                generator=generator(params.seed, "stage_two", index),
                progress=progress,
            )
    rows = {f"{name}.{field}": tensor for name, head in heads.items() for field, tensor in head._asdict().items()}
    before = artifacts.load_tensors(artifacts.heads_file(task_name(index - 1)))
    artifacts.save_tensors(artifacts.heads_file(task), append_rows(before, rows))


if __name__ == "__main__":
    run(main)
