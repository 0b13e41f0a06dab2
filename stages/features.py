"""Features under selected LayerNorms: of a task's training images, and of test images whose selection changed."""

from dataclasses import asdict

from pydantic import Field

from pipeline import artifacts
from pipeline.backbone import Normalize, build_backbone
from pipeline.command import run
from pipeline.device import compute_device
from pipeline.feature_table import FeatureTable
from pipeline.features import encode_selected, extend_table
from pipeline.images import Images
from pipeline.params import Record, read_params
from pipeline.progress import Progress
from pipeline.selector import select_tasks
from pipeline.tasks import task_index, task_name


class Params(Record):
    """Which selector chooses the LayerNorms."""

    image_size: int = Field(ge=1)
    normalize: Normalize
    selector: str


def main(task: str) -> None:
    """Compute the features of TASK (t1, t2, ...)."""
    params = read_params(Params)
    index = task_index(task)
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=params.image_size, normalize=params.normalize, device=compute_device()
    )
    bank = artifacts.load_tensors(artifacts.layernorms_file(task))
    keys = artifacts.load_tensors(artifacts.KEYS)["keys"][: index + 1]
    train = Images.from_tensors(artifacts.load_tensors(artifacts.train_file(task)))
    train_queries = artifacts.load_tensors(artifacts.train_queries_file(task))["queries"]
    test, test_queries = (
        artifacts.load_tensors(artifacts.TEST),
        artifacts.load_tensors(artifacts.TEST_QUERIES)["queries"],
    )
    seen = test["tasks"] <= index
    before = artifacts.load_tensors(artifacts.features_file(task_name(index - 1)))
    table = FeatureTable.from_tensors(before) if before else FeatureTable.empty(backbone.model.num_features)

    with Progress(f"features, {task}", images=0) as progress:
        chosen = select_tasks(params.selector, train_queries, keys)
        train_features = encode_selected(backbone, train, chosen, bank, progress)
        table = extend_table(
            table,
            backbone,
            images=Images.from_tensors(test)[seen],
            selected=select_tasks(params.selector, test_queries[seen], keys),
            bank=bank,
            progress=progress,
        )
        progress.finish()
    artifacts.save_tensors(artifacts.features_file(task), {"train_features": train_features} | asdict(table))


if __name__ == "__main__":
    run(main)
