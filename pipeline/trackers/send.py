"""Sends a finished run to a tracker. Each is an optional package; none of them sees a picture or a weight."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path

from pipeline.errors import UserError
from pipeline.export.folder import new_folder
from pipeline.report.text import code, table
from pipeline.trackers.command import To
from pipeline.trackers.finished_run import Run

_PACKAGES = {"mlflow": "mlflow", "tensorboard": "tensorboard", "wandb": "wandb"}
_LONGEST = 6000  # characters of a parameter that MLflow takes


def send(run: Run, to: To, *, at: str, experiment: str) -> str:
    """Log the run, and say where in one line. Raises UserError if the package is missing or the tracker refuses."""
    package = _PACKAGES[to]
    if importlib.util.find_spec(package) is None:
        extra = "pip install wandb" if to == "wandb" else "pip install -c constraints.txt '.[track]'"
        raise UserError(f"--to {to} needs {package}: `{extra}`")
    return {"mlflow": _mlflow, "tensorboard": _tensorboard, "wandb": _wandb}[to](run, at, experiment)


def _mlflow(run: Run, at: str, experiment: str) -> str:
    import mlflow  # noqa: PLC0415

    is_address = not at or "://" in at or at.partition(":")[0] in ("databricks", "databricks-uc", "uc")
    place = at if is_address else Path(at).resolve().as_uri()
    if not place.startswith(("http", "databricks")):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        if place:
            mlflow.set_tracking_uri(place)
        mlflow.set_experiment(experiment)
        with mlflow.start_run(run_name=run.name) as started:
            mlflow.log_params({name: value[:_LONGEST] for name, value in run.params.items()})
            mlflow.log_metrics(dict(run.metrics))
            for step, values in enumerate(run.steps, 1):
                mlflow.log_metrics({name.replace("/", "_"): value for name, value in values.items()}, step=step)
            mlflow.set_tags({"revision": str(run.origin["revision"])})
            mlflow.log_dict(dict(run.origin), "origin.json")
            for file in run.files:
                mlflow.log_artifact(str(file), "figures" if file.suffix == ".png" else None)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise UserError(f"MLflow refuses: {str(error).splitlines()[0]}: check --at and --experiment") from None
    return f"MLflow run {started.info.run_id} of {experiment} at {mlflow.get_tracking_uri()}"


def _tensorboard(run: Run, at: str, experiment: str) -> str:
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    of_params = hashlib.sha256(json.dumps(dict(run.params), sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(at or "runs") / experiment / f"{run.name} {of_params}".replace(" ", "-")
    if folder.exists():
        raise UserError(f"{folder} exists: this run is logged already; remove the folder to log it again")
    with new_folder(folder) as beside, SummaryWriter(str(beside)) as writer:
        for name, value in run.metrics.items():
            writer.add_scalar(name, value, len(run.steps))
        for step, values in enumerate(run.steps, 1):
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        writer.add_text(
            "params", table(("parameter", "value"), [(name, code(value)) for name, value in run.params.items()])
        )
        writer.add_text("origin", f"```\n{json.dumps(dict(run.origin), indent=2)}\n```")
        for file in run.files:
            if file.suffix == ".png":
                with Image.open(file) as image:
                    writer.add_image(file.stem, np.asarray(image.convert("RGB")), dataformats="HWC")
            else:
                writer.add_text(file.name, file.read_text(encoding="utf-8"))
    return f"TensorBoard: tensorboard --logdir {at or 'runs'}"


def _wandb(run: Run, at: str, experiment: str) -> str:
    import wandb  # noqa: PLC0415

    try:
        with wandb.init(project=experiment, name=run.name, config=dict(run.params), dir=at or None) as started:
            for step, values in enumerate(run.steps, 1):
                started.log(dict(values), step=step)
            started.summary.update({**run.metrics, "revision": run.origin["revision"]})
            started.config.update({"origin": dict(run.origin)})
            images = {file.stem: wandb.Image(str(file)) for file in run.files if file.suffix == ".png"}
            started.log(images, step=len(run.steps))
            return f"Weights & Biases run {started.id} of {experiment}"
    except (wandb.errors.Error, OSError) as error:
        raise UserError(
            f"Weights & Biases refuses: {str(error).splitlines()[0]}: `wandb login`, or WANDB_MODE=offline"
        ) from None
