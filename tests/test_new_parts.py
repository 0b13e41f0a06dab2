"""A new selector, classifier or kind takes one file; kinds and classifiers also take a block in params.yaml."""

import pytest

from harness.dvc_repository import Repository, cached, per_task, ran
from harness.parameters import set_params

SELECTOR = '''"""`selector: mean_query`: the plain mean of a task's queries."""

import torch
from torch import Tensor

from pipeline.selection.prototypes import nearest_prototype
from pipeline.selection.selector import Selector, TaskQueries
from pipeline.selection.state import State, add_rows


def learn(state: State, task: TaskQueries, generator: torch.Generator) -> dict[str, Tensor]:
    """Keep the mean."""
    return add_rows(state, prototypes=task.queries.mean(0, keepdim=True))


SELECTOR = Selector(learn, nearest_prototype, "The task with the nearest mean query is selected.")
'''

CLASSIFIER = '''"""`classifier: plain_mean`: class means, not normalised."""

import torch
from torch import Tensor

from pipeline.classification.classifier import Classifier, State, TaskFeatures, Training
from pipeline.linear.head import Head


def learn(state: State, features: TaskFeatures, training: Training) -> tuple[dict[str, Tensor], Head]:
    """Means."""
    classes = range(int(features.labels.max()) + 1)
    means = torch.stack([features.own[features.labels == c].mean(0) for c in classes])
    means = torch.cat([state["means"], means]) if state else means
    return {"means": means}, Head(means.clone(), -means.square().sum(1) / 2)


CLASSIFIER = Classifier(learn, "The nearest class mean wins.")
'''

KIND = '''"""`tuning: mlp_scale`: a factor for every input of the second layer of each MLP."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.tuning.kind import Kind


class Options(Record):
    """Where the factors start."""

    start: float


class Scaled(nn.Module):
    """A layer whose inputs are scaled."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.factor = layer, nn.Parameter(torch.ones(layer.in_features), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scale, then the layer."""
        return self.layer(inputs * self.factor)


def places(model: Any, options: Options) -> Any:
    """With scaled layers."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        block.mlp.fc2 = Scaled(block.mlp.fc2)
    return model


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """Those of the task before."""
    names = [name for name, _ in backbone.model.named_parameters() if name.endswith(".factor")]
    return previous or {name: options.start * values for name, values in backbone.pretrained(names).items()}


KIND = Kind(options=Options, start=start, places=places, sentence="Each task scales the hidden units of the MLPs.")
'''


@pytest.mark.slow
def test_parts_are_files_and_the_report_names_them(repository: Repository) -> None:
    before = set(repository.run("git", "ls-files").splitlines())
    folder = repository.path / "pipeline"
    (folder / "selection/selectors/mean_query.py").write_text(SELECTOR)
    (folder / "classification/classifiers/plain_mean.py").write_text(CLASSIFIER)
    (folder / "tuning/kinds/mlp_scale.py").write_text(KIND)
    params = repository.path / "params.yaml"
    params.write_text(params.read_text() + "mlp_scale: {start: 1.0}\nplain_mean: {}\n")
    repository.commit("parts that nobody has chosen")
    assert "Data and pipelines are up to date." in repository.dvc("status"), "a part that is not chosen reruns nothing"
    assert len(set(repository.run("git", "ls-files").splitlines()) - before) == 3

    set_params(params, tuning="mlp_scale", selector="mean_query", classifier="plain_mean")
    again = ran(repository.dvc("repro"))
    assert not {"download", "split", *per_task("queries")} & set(again)
    assert set(per_task("stage_one", "features", "stage_two")) <= set(again)
    report = " ".join(repository.read("reports/report.md").split())
    for sentence in (
        "Each task scales the hidden units of the MLPs.",
        "The task with the nearest mean query is selected.",
        "The nearest class mean wins.",
    ):
        assert sentence in report
    assert "| `mlp_scale.start` | `1.0` |" in report
    repository.commit("with them")

    with (folder / "tuning/kinds/full.py").open("a") as other:
        other.write("# edited\n")
    set_params(params, **{"layernorm.norms": "final", "layerwise.attention": True})
    assert "Data and pipelines are up to date." in repository.dvc("status"), "nor do other parts' code and options"

    output = repository.dvc("exp", "run", "-S", "mlp_scale.start=0.9")
    assert set(per_task("stage_one")) <= set(ran(output)) - set(cached(output))
    with (folder / "tuning/kinds/mlp_scale.py").open("a") as chosen:
        chosen.write("# edited\n")
    assert "code" in repository.dvc("status")
