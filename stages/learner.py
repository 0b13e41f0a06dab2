"""What the finished learner is made of: all that predicting needs to know, and no parameter of a run to come."""

from pipeline.inference.manifest import Settings, write_manifest
from pipeline.params import read_params
from pipeline.runtime.command import run


class Params(Settings):
    """What inference depends on beside the files."""


def main() -> None:
    """Record settings, classes and files."""
    write_manifest(read_params(Params))


if __name__ == "__main__":
    run(main)
