"""Record what the finished learner consists of, so that predict does not depend on later changes of params.yaml."""

from pipeline.inference.manifest import Settings, write_manifest
from pipeline.params import read_params
from pipeline.runtime.command import run


class Params(Settings):
    """The parameters that inference depends on."""


def main() -> None:
    """Record settings, classes and files."""
    write_manifest(read_params(Params))


if __name__ == "__main__":
    run(main)
