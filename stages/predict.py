"""Name the classes of image files with the finished learner: python -m stages.predict IMAGE... (no DVC stage)."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from pipeline import artifacts
from pipeline.backbone import Normalize, build_backbone
from pipeline.command import run
from pipeline.cumulative import newest_repeated, part, running_means
from pipeline.device import compute_device
from pipeline.errors import visible
from pipeline.evaluation import step_heads
from pipeline.head import Head, task_heads
from pipeline.image_files import read_image
from pipeline.images import Images
from pipeline.learner import Learner
from pipeline.params import Count, ImageSize, Record, read_params
from pipeline.selector import Selection
from pipeline.tasks import task_name
from pipeline.tuned_parameters import Tuning


class Params(Record):
    """What the learner was trained with."""

    num_tasks: Count
    image_size: ImageSize
    normalize: Normalize
    selection: Selection
    selector: str
    tuning: Tuning


def load_learner(params: Params) -> Learner:
    """The learner after the last task."""
    last = task_name(params.num_tasks - 1)
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    heads = artifacts.load_tensors(artifacts.heads_file(last))
    bank = artifacts.load_tensors(artifacts.layernorms_file(last))
    if params.tuning == "full":
        bank = newest_repeated(bank, params.num_tasks)
    if params.selection == "average":
        bank = running_means(bank)
    sizes = [len(classes) for classes in artifacts.load_json(artifacts.TASKS).values()][: params.num_tasks]
    rows = Head(**part(heads, "tuned.head."), projection=heads.get("tuned.projection"))
    return Learner(
        backbone=build_backbone(
            weights, config, image_size=params.image_size, normalize=params.normalize, device=compute_device()
        ),
        bank=bank,
        state=artifacts.load_tensors(artifacts.selector_file(last)),
        head=step_heads(rows, torch.tensor(sizes).cumsum(0).tolist())[-1],
        auxiliary_heads=task_heads(artifacts.load_tensors(artifacts.auxiliary_heads_file(last))),
        selection=params.selection,
        selector=params.selector,
    )


def main(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each.")] = 3,
) -> None:
    """Print the most probable classes of each IMAGE and the task whose LayerNorms were selected."""
    params = read_params(Params)
    ranges = artifacts.load_json(artifacts.RAW_CLASSES).get("ranges") if artifacts.RAW_CLASSES.exists() else None
    pixels = torch.stack([read_image(path, params.image_size, ranges) for path in images])
    learner = load_learner(params)
    classes = [visible(name) for names in artifacts.load_json(artifacts.TASKS).values() for name in names]
    tasks, probabilities = learner.predict(Images.of_pixels(pixels))
    table = Table("image", "task", "classes")
    for path, task, row in zip(images, tasks.tolist(), probabilities, strict=True):
        best = row.topk(min(top, len(row)))
        named = [f"{classes[c]} {p:.0%}" for p, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        table.add_row(visible(str(path)), task_name(task), ", ".join(named))
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    run(main)
