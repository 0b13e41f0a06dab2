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


main = command.predict  # which `python -m pipeline predict` runs, too


if __name__ == "__main__":
    run(main)
