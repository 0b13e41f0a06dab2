"""Run the frozen backbone once over every image to get the queries, and write the start of every chain of tasks."""

from torch import Tensor

from pipeline.backbone.build import load_backbone
from pipeline.backbone.vectors import FeaturesName
from pipeline.backbone.vit import Backbone, Normalize
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.machine.devices import on_all_devices
from pipeline.params import ImageSize, Record, read_params
from pipeline.progress import Progress
from pipeline.runtime.command import run
from pipeline.store import artifacts


class Params(Record):
    """The backbone's input."""

    image_size: ImageSize
    normalize: Normalize
    features: FeaturesName


def main() -> None:
    """Compute queries, and write the empty artifacts from which the chains of tasks start."""
    params = read_params(Params)
    backbone = load_backbone(image_size=params.image_size, normalize=params.normalize, features=params.features)
    layout = backbone.layout.metadata()
    names = list(artifacts.load_json(artifacts.TASKS))
    test = Images.from_tensors(artifacts.load_tensors(artifacts.TEST))
    train = {name: Images.from_tensors(artifacts.load_tensors(artifacts.train_file(name))) for name in names}

    with Progress("queries", len(test) + sum(len(images) for images in train.values())) as progress:
        for name, images in train.items():
            artifacts.save_tensors(
                artifacts.train_queries_file(name), {"queries": queries_of(backbone, images)}, layout
            )
            progress.step(len(images))
        artifacts.save_tensors(artifacts.TEST_QUERIES, {"queries": queries_of(backbone, test)}, layout)
        progress.step(len(test))
        progress.finish()
    facts = {
        "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
        "dim": backbone.model.num_features,
        "vectors": backbone.layout.vectors,
        "flops_per_pass": backbone.flops({}),
    }
    artifacts.save_json(artifacts.BACKBONE_FACTS, facts)
    chains = artifacts.bank_file, artifacts.auxiliary_heads_file, artifacts.features_file, artifacts.heads_file
    for file in chains:
        artifacts.save_tensors(file("t0"), {})


def queries_of(backbone: Backbone, images: Images) -> Tensor:
    """Queries [N, D]. Raises UserError if they are not finite: no later stage could learn from them."""
    queries = backbone.encode(images, {})
    if not bool(queries.isfinite().all()):
        raise UserError("the frozen backbone's outputs are not finite: choose other weights or another `normalize`")
    return queries


if __name__ == "__main__":
    run(on_all_devices(main))
