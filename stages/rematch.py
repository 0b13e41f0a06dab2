"""Predict again under the tensors of the predicted class's task, after every step: `correction: rematch`.

With any other correction, nothing runs and nothing is written.
"""

from pipeline.backbone.build import load_backbone
from pipeline.backbone.vectors import FeaturesName
from pipeline.backbone.vit import Normalize
from pipeline.data.images import Images
from pipeline.evaluation.correction import Correction
from pipeline.evaluation.predictions import class_tasks_of
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_selected
from pipeline.inference.rematch import rematch
from pipeline.linear.steps import step_heads
from pipeline.machine.devices import on_all_devices
from pipeline.params import Count, ImageSize, Record, read_params
from pipeline.progress import Progress
from pipeline.runtime.command import run
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from pipeline.tasks import task_name
from pipeline.tuning.bank import load_bank


class Params(Record):
    """Whether and how often to re-match, and how the features were computed."""

    num_tasks: Count
    image_size: ImageSize
    normalize: Normalize
    features: FeaturesName
    correction: Correction
    rematch_rounds: Count


def main() -> None:
    """Compute the re-matched predictions after every step."""
    params = read_params(Params)
    if params.correction != "rematch":
        artifacts.save_tensors(artifacts.REMATCH, {})
        return
    last = task_name(params.num_tasks - 1)
    bank = load_bank(artifacts.bank_file(last), params.num_tasks)
    backbone = load_backbone(image_size=params.image_size, normalize=params.normalize, features=params.features)
    tuned = bank.place(backbone)
    table = FeatureTable.from_tensors(artifacts.load_tensors(artifacts.features_file(last)))
    heads = artifacts.load_tensors(artifacts.heads_file(last))
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
    artifacts.save_tensors(artifacts.REMATCH, result._asdict())


if __name__ == "__main__":
    run(on_all_devices(main))
