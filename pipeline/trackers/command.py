"""python -m pipeline log."""

from typing import Annotated, Literal

import typer

To = Literal["mlflow", "tensorboard", "wandb"]


def log(
    to: Annotated[To, typer.Option(help="The tracker.")],
    at: Annotated[
        str, typer.Option(help="MLflow's tracking URI, or a folder; default: the tracker's own (TensorBoard: runs).")
    ] = "",
    experiment: Annotated[
        str, typer.Option(help="The experiment or project to log into.")
    ] = "continual-layernorm-tuning",
) -> None:
    """Send the finished run to a tracker: parameters, metrics, accuracy matrix, figures, checksums of artifacts."""
    from pipeline.trackers.finished_run import read_run  # noqa: PLC0415  (seconds of imports)
    from pipeline.trackers.send import send  # noqa: PLC0415

    print(send(read_run(), to, at=at, experiment=experiment))
