"""python -m pipeline predict, and python -m stages.predict."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

SKIPPED = 3  # exit code: some pictures have an answer, others could not be read

Form = Literal["table", "csv", "jsonl"]
Images = Annotated[
    list[Path], typer.Argument(help="Image files, folders of them, or patterns such as 'photos/**/*.jpg'.")
]
Folder = Annotated[Path | None, typer.Option("--learner", help="An exported folder; default: the result here.")]
TaskOption = Annotated[str, typer.Option("--task", help="The task of the images (t1, t2, ...), for setting: task.")]
Top = Annotated[int, typer.Option(min=1, help="How many classes to list per image.")]
FormOption = Annotated[Form, typer.Option("--format", help="A table for people, or CSV or JSON lines for programs.")]


def predict(
    images: Images, learner: Folder = None, task: TaskOption = "", top: Top = 3, form: FormOption = "table"
) -> None:
    """Print the most probable classes of each picture. The exit code is 3 if a picture cannot be read."""
    from pipeline.prediction.run import predict_pictures  # noqa: PLC0415  (seconds of imports)

    try:
        skipped = predict_pictures(images, learner, task=task, top=top, form=form)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    if skipped:
        raise typer.Exit(SKIPPED)
