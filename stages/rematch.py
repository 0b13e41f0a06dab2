"""Re-match predictions under the LayerNorms of the predicted class's task. Writes nothing for other corrections."""

from pipeline.backbone.build import build_backbone
from pipeline.backbone.vectors import FeaturesName
from pipeline.backbone.vit import Normalize
from pipeline.data.images import Images
from pipeline.evaluation.correction import Correction
from pipeline.evaluation.predictions import class_tasks_of
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_selected
from pipeline.inference.rematch import rematch
from pipeline.linear.steps import step_heads
from pipeline.machine.device import compute_device
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
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights,
        config,
        image_size=params.image_size,
        normalize=params.normalize,
        device=compute_device(),
        features=params.features,
    )
    bank = load_bank(artifacts.bank_file(last), params.num_tasks)
    tuned = bank.place(backbone)
    heads = artifacts.load_tensors(artifacts.heads_file(last))
    after = step_heads(part(heads, "tuned.head."), heads.get("tuned.projection"))
    test = Images.from_tensors(artifacts.load_tensors(artifacts.TEST))
    with Progress("rematch", images=0) as progress:
        result = rematch(
            FeatureTable.from_tensors(artifacts.load_tensors(artifacts.features_file(last))),
            after,
            class_tasks_of([len(head.bias) for head in after]),
            lambda image, task: encode_selected(tuned, test[image], task, bank.tensors, progress),
            rounds=params.rematch_rounds,
        )
        progress.finish()
    artifacts.save_tensors(artifacts.REMATCH, result._asdict())


if __name__ == "__main__":
    run(main)
