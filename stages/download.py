"""Fetch the data set and the backbone's weights, in one layout whatever their source."""

from pipeline import artifacts
from pipeline.backbones import fetch_backbone
from pipeline.command import run
from pipeline.datasets import fetch_dataset
from pipeline.params import Record, read_params


class Params(Record):
    """What to fetch."""

    dataset: str
    backbone: str


def main() -> None:
    """Fetch the data set and the backbone's weights."""
    params = read_params(Params)
    weights = fetch_backbone(params.backbone)
    dataset = fetch_dataset(params.dataset)
    artifacts.save_bytes(artifacts.BACKBONE, weights)
    artifacts.save_json(artifacts.RAW_CLASSES, {"classes": dataset.classes, "groups": dataset.groups})
    artifacts.save_tensors(artifacts.RAW_TRAIN, {"images": dataset.train_images, "labels": dataset.train_labels})
    artifacts.save_tensors(artifacts.RAW_TEST, {"images": dataset.test_images, "labels": dataset.test_labels})
    print(
        f"{params.dataset}: {len(dataset.classes)} classes, {len(dataset.train_images)} training and "
        f"{len(dataset.test_images)} test images; backbone {params.backbone}"
    )


if __name__ == "__main__":
    run(main)
