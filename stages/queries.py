"""Run the frozen backbone once over every image of a task, to get the queries."""

from torch import Tensor

from pipeline.backbone.build import load_backbone
from pipeline.backbone.vectors import FeaturesName
from pipeline.backbone.vit import Backbone, Normalize
from pipeline.data import test_images
from pipeline.data.images import Images
from pipeline.data.packing import PACKED_SIDE
from pipeline.errors import UserError
from pipeline.machine.devices import on_all_devices
from pipeline.params import ImageSize, Record, read_params
from pipeline.progress import Progress
from pipeline.runtime.command import Task, run
from pipeline.store import artifacts
from pipeline.tasks import task_index


class Params(Record):
    """The backbone's input."""

    image_size: ImageSize
    normalize: Normalize
    features: FeaturesName


def main(task: Task) -> None:
    """Compute the queries of TASK (t1, t2, ...)."""
    params = read_params(Params)
    of_test = test_images.load_images(task, task_index(task))
    of_train = Images.from_tensors(artifacts.load_tensors(artifacts.train_file(task)))
    if task_index(task) == 0 and of_train.offsets is not None and params.image_size > PACKED_SIDE:
        print(
            f"warning: image_size is {params.image_size}, but images are stored with at most {PACKED_SIDE} pixels on "
            "the shorter side: they are scaled up, which costs time and adds no detail"
        )
    backbone = load_backbone(image_size=params.image_size, normalize=params.normalize, features=params.features)
    described = backbone.layout.metadata() | {
        "parameters": str(sum(parameter.numel() for parameter in backbone.model.parameters())),
        "flops": str(backbone.flops({})),  # of a frozen pass
    }
    with Progress(f"queries, {task}", len(of_train) + len(of_test)) as progress:
        for file, images in ((artifacts.train_queries_file, of_train), (artifacts.test_queries_file, of_test)):
            artifacts.save_tensors(file(task), {"queries": queries_of(backbone, images)}, described)
            progress.step(len(images))
        progress.finish()


def queries_of(backbone: Backbone, images: Images) -> Tensor:
    """Queries [N, D]. Raises UserError if they are not finite: no later stage could learn from them."""
    queries = backbone.encode(images, {})
    if not bool(queries.isfinite().all()):
        raise UserError("the frozen backbone's outputs are not finite: choose other weights or another `normalize`")
    return queries


if __name__ == "__main__":
    run(on_all_devices(main))
