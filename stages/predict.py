"""Classify image files with the finished learner: python -m stages.predict IMAGE... (not a DVC stage)."""

from pipeline.inference import learner as inference
from pipeline.inference.learner import Learner
from pipeline.inference.manifest import Settings, read_manifest
from pipeline.prediction import command
from pipeline.runtime.command import run

Params = Settings


def load_learner(settings: Settings) -> Learner:
    """The learner with these settings, from the files in the working folder."""
    return inference.load_learner(settings, read_manifest().tasks)


def main(
    images: command.Images,
    learner: command.Folder = None,
    task: command.TaskOption = "",
    top: command.Top = 3,
    form: command.FormOption = "table",
) -> None:
    """Print each picture's most probable classes, the selected task, and whether it is none of these."""
    command.predict(images, learner, task=task, top=top, form=form)


if __name__ == "__main__":
    run(main)
