"""Stage one of a task: its LayerNorms, tuned from those of the task before."""

from pydantic import Field

from pipeline import artifacts
from pipeline.backbone import Normalize, build_backbone
from pipeline.command import run
from pipeline.cumulative import append_rows, row
from pipeline.device import compute_device
from pipeline.images import Images
from pipeline.params import Record, read_params
from pipeline.progress import Progress
from pipeline.seeds import generator
from pipeline.tasks import task_index, task_name
from pipeline.tuning import Schedule, tune_layernorms


class Params(Record):
    """How to tune."""

    seed: int = Field(ge=0)
    image_size: int = Field(ge=1)
    normalize: Normalize
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    epochs: int = Field(ge=1)
    min_crop: float = Field(gt=0, le=1)
    flip: bool


def main(task: str) -> None:
    """Tune the LayerNorms of TASK (t1, t2, ...)."""
    params = read_params(Params)
    index = task_index(task)
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=params.image_size, normalize=params.normalize, device=compute_device()
    )
    bank = artifacts.load_tensors(artifacts.layernorms_file(task_name(index - 1)))
    train = artifacts.load_tensors(artifacts.train_file(task))
    with Progress(f"stage one, {task}", params.epochs * len(train["labels"])) as progress:
        layernorms, head = tune_layernorms(
            backbone,
            start=row(bank, -1) if bank else backbone.layernorms(),
            images=Images.from_tensors(train),
            labels=train["labels"],
            schedule=Schedule(params.batch_size, params.lr, params.epochs, params.min_crop, params.flip),
            generator=generator(params.seed, "stage_one", index),
            progress=progress,
        )
    artifacts.save_tensors(artifacts.auxiliary_head_file(task), head._asdict())
    new = {name: tensor[None] for name, tensor in layernorms.items()}
    artifacts.save_tensors(artifacts.layernorms_file(task), append_rows(bank, new))


if __name__ == "__main__":
    run(main)
