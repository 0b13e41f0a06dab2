"""The images for measuring whole pipelines: the default benchmark, and CIFAR-100."""

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.measuring import Setup
from benchmarks.speed.input_path import write_images
from benchmarks.studies.cifar100_vit_tiny import NUM_TASKS, params_of
from pipeline.params import read_mapping

_MINIATURE = {"epochs": 1, "classifier_epochs": 1}


class Benchmark(NamedTuple):
    """A data set and a backbone."""

    title: str
    num_tasks: int
    params: dict[str, Any]  # of params.yaml, except seeds and schedules
    why_not: str = ""  # what is missing to run it


def default(setup: Setup, folder: Path) -> Benchmark:
    """The embedded benchmark; in miniature, a few images written into a folder take its place."""
    if setup.device == "cpu":
        write_images(folder / "images", 88, size=16, suffix=".png")
        tiny = {"dataset": "image_folder", "data_dir": str(folder / "images"), "image_size": 16, "classes_per_task": 5}
        return Benchmark("glyphs in miniature", 2, tiny | _MINIATURE)
    why_not = "matplotlib is missing" if "matplotlib" in setup.missing else ""
    return Benchmark("glyphs", int(read_mapping(Path("params.yaml"))["num_tasks"]), {}, why_not)


def cifar100(setup: Setup) -> Benchmark:
    """CIFAR-100 with as many images as are available."""
    if not setup.images or not setup.weights:
        return Benchmark("CIFAR-100, ViT-Ti/16 at 224 px", 0, {}, "no --images and --weights are given")
    params = params_of(setup.images, setup.weights)
    if setup.device == "cpu":
        return Benchmark("CIFAR-100, ViT-Ti/16 at 32 px", 2, params | _MINIATURE | {"image_size": 32})
    return Benchmark("CIFAR-100, ViT-Ti/16 at 224 px", NUM_TASKS, params | {"image_size": 224})
