"""Classify image files with the finished learner: python -m stages.predict IMAGE... (not a DVC stage)."""

import sys

from pipeline.errors import visible
from pipeline.inference import learner as inference
from pipeline.inference.learner import Learner
from pipeline.inference.manifest import Settings, read_manifest
from pipeline.params import read_values
from pipeline.prediction import command
from pipeline.runtime.command import run

Params = Settings


def load_learner(settings: Settings) -> Learner:
    """The learner with these settings, from the files in the working folder."""
    return inference.load_learner(settings, read_manifest().tasks)


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
    images: command.Images,
    learner: command.Folder = None,
    task: command.TaskOption = "",
    top: command.Top = 3,
    form: command.FormOption = "table",
) -> None:
    """Print each picture's most probable classes, the selected task, and whether it is none of these."""
    if learner is None:
        settings = read_manifest().settings
        if note := changes_since(settings):
            print(f"note: {note}", file=sys.stderr)
    command.predict(images, learner, task=task, top=top, form=form)


if __name__ == "__main__":
    run(main)
