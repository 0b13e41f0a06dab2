"""python -m pipeline export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Form = Literal["learner", "timm", "onnx"]


def export(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    form: Annotated[
        Form, typer.Option("--format", help="learner: for this project; timm: for timm alone; onnx: one graph.")
    ] = "learner",
) -> None:
    """Write the finished learner into FOLDER: weights, classes and a model card, without pickle."""
    from pipeline.export.write import write_folder  # noqa: PLC0415  (seconds of imports)

    size = write_folder(folder, form)
    print(f"{folder}: {form}, {size / 1e6:.1f} MB")
