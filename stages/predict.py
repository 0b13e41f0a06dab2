"""Classify image files with the finished learner: python -m stages.predict IMAGE... (not a DVC stage)."""

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from pipeline.data.image_files import read_image
from pipeline.data.images import Images
from pipeline.errors import visible
from pipeline.evaluation.settings import numbered
from pipeline.inference import learner
from pipeline.inference.learner import Learner
from pipeline.inference.manifest import Settings, read_manifest
from pipeline.params import read_values
from pipeline.runtime.command import run
from pipeline.store import artifacts
from pipeline.tasks import task_index, task_name

Params = Settings


def load_learner(settings: Settings) -> Learner:
    """The learner with these settings, from the files in the working folder."""
    return learner.load_learner(settings, read_manifest().tasks)


def changes_since(settings: Settings) -> str:
    """One line on how params.yaml has changed since the learner was made; empty if it has not."""
    made = settings.model_dump()
    changed = {name: value for name, value in read_values(made).items() if value != made[name]}
    if not changed:
        return ""
    old = ", ".join(f"{name}: {made[name]}" for name in changed)
    new = ", ".join(f"{name}: {value}" for name, value in changed.items())
    return visible(f"this learner was made with {old}; params.yaml now says {new}: `dvc repro` makes a new learner")


def main(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    task: Annotated[str, typer.Option(help="The task of the images (t1, t2, ...), for setting: task.")] = "",
    top: Annotated[int, typer.Option(min=1, help="How many classes to list per image.")] = 3,
) -> None:
    """Print the most probable classes of each IMAGE and the task whose LayerNorms were selected."""
    manifest = read_manifest()
    settings = manifest.settings
    if note := changes_since(settings):
        print(f"note: {note}", file=sys.stderr)
    ranges = artifacts.load_json(artifacts.RAW_CLASSES).get("ranges") if artifacts.RAW_CLASSES.exists() else None
    pixels = torch.stack([read_image(path, settings.image_size, ranges) for path in images])
    tasks, logits = load_learner(settings).predict(Images.of_pixels(pixels), task_index(task) if task else None)
    if settings.correction == "arc_retention":
        print(
            "note: arc_retention is transductive: the evaluation's test images have moved the head; the images given "
            "here do not move it",
            file=sys.stderr,
        )
    classes = [visible(name) for name in numbered(manifest.tasks)[0]]
    print(f"setting: {settings.setting}", file=sys.stderr)
    table = Table("image", "task", "classes")
    for path, of_task, row in zip(images, tasks.tolist(), logits, strict=True):
        shares, best = row.softmax(0), row.topk(min(top, int(row.isfinite().sum()))).indices
        named = [f"{classes[c]} {shares[c]:.0%}" for c in best.tolist()]
        domain = f" ({visible(manifest.domains[of_task])})" if manifest.domains else ""
        table.add_row(visible(str(path)), task_name(of_task) + domain, ", ".join(named))
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    run(main)
