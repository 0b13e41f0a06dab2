"""Run what waits until all tasks are learned: the one pass with all branches, and the passes that re-match.

Branches beside the frozen backbone complete the feature table here. `correction: rematch` predicts again under the
tensors of the predicted class's task. Without either, nothing runs and nothing is written.
"""

from dataclasses import asdict

from torch import Tensor

from pipeline.backbone.build import load_backbone
from pipeline.backbone.vectors import FeaturesName
from pipeline.backbone.vit import Backbone, Normalize
from pipeline.data.images import Images
from pipeline.evaluation.correction import Correction
from pipeline.evaluation.predictions import class_tasks_of
from pipeline.inference.branching import BranchingEncoder
from pipeline.inference.feature_table import COMPLETED, FeatureTable
from pipeline.inference.features import encode_selected
from pipeline.inference.rematch import Rematched, rematch
from pipeline.linear.head import task_heads
from pipeline.linear.steps import step_heads
from pipeline.machine.devices import on_all_devices
from pipeline.params import Count, ImageSize, Record, read_params
from pipeline.progress import Progress
from pipeline.runtime.command import run
from pipeline.selection.choose import SELECTIONS, Choice, SelectionName
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from pipeline.tasks import task_name
from pipeline.tuning.bank import Bank, load_bank


class Params(Record):
    """Whether and how often to re-match, and how the features were computed."""

    num_tasks: Count
    image_size: ImageSize
    normalize: Normalize
    features: FeaturesName
    selection: SelectionName
    selector: str
    correction: Correction
    rematch_rounds: Count


def main() -> None:
    """Complete the feature table, and compute the re-matched predictions after every step."""
    params = read_params(Params)
    last = task_name(params.num_tasks - 1)
    bank = load_bank(artifacts.bank_file(last), params.num_tasks)
    if params.correction != "rematch" and not bank.kind.together:
        artifacts.save_tensors(artifacts.REMATCH, {})
        return
    backbone = load_backbone(image_size=params.image_size, normalize=params.normalize, features=params.features)
    table = FeatureTable.from_tensors(artifacts.load_tensors(artifacts.features_file(last)))
    found: dict[str, Tensor] = {}
    if bank.kind.together:
        table = completed(params, backbone, bank, table)
        found |= {f"{COMPLETED}{name}": tensor for name, tensor in asdict(table).items()}
    if params.correction == "rematch":
        found |= rematched(params, backbone, bank, table)._asdict()
    artifacts.save_tensors(artifacts.REMATCH, found)


def completed(params: Params, backbone: Backbone, bank: Bank, table: FeatureTable) -> FeatureTable:
    """The table, from one pass of every test image with the branches of all tasks."""
    auxiliary = artifacts.load_tensors(artifacts.auxiliary_heads_file(task_name(params.num_tasks - 1)))
    choice = Choice(SELECTIONS[params.selection], find_selector(params.selector), {})
    test = artifacts.load_tensors(artifacts.TEST)
    covered = test["tasks"] < params.num_tasks
    with Progress("features, all tasks", images=0) as progress:
        encoder = BranchingEncoder(
            bank.place(backbone), bank.kind, bank.tensors, choice, task_heads(auxiliary), progress
        )
        table = encoder.complete(table, Images.from_tensors(test)[covered], test["tasks"][covered])
        progress.finish()
    return table


def rematched(params: Params, backbone: Backbone, bank: Bank, table: FeatureTable) -> Rematched:
    """The re-matched predictions."""
    tuned = bank.place(backbone)
    heads = artifacts.load_tensors(artifacts.heads_file(task_name(params.num_tasks - 1)))
    after = step_heads(part(heads, "tuned.head."), heads.get("tuned.projection"))
    test = Images.from_tensors(artifacts.load_tensors(artifacts.TEST))
    with Progress("rematch", images=0) as progress:
        result = rematch(
            table,
            after,
            class_tasks_of([len(head.bias) for head in after]),
            lambda image, task: encode_selected(tuned, test[image], task, bank.tensors, progress),
            rounds=params.rematch_rounds,
        )
        progress.finish()
    return result


if __name__ == "__main__":
    run(on_all_devices(main))
