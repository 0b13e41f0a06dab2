"""Part 4: whole pipelines, and their accuracy on this device compared with a CPU."""

import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path
from unittest.mock import patch

from benchmarks.gpu.data import Benchmark, cifar100, default
from benchmarks.gpu.measuring import Measurement, Setup, figure
from benchmarks.speed.ratios import Row, seconds
from harness import plain_project
from harness.clone import ROOT, configure
from harness.stage_order import AFTER_LAYERNORMS, LEARNING, run_stages
from pipeline.params import read_mapping
from pipeline.store import artifacts

TITLE = "Whole pipelines"
PAPER, BEST = "the paper's configuration", "presets/best"
CONTROL = "the frozen backbone with a linear discriminant"

Result = Mapping[str, float]  # accuracy in percent and seconds, by configuration


def measurements(setup: Setup) -> Iterator[Measurement]:
    """Both benchmarks on this device, then the default benchmark on the CPU."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        embedded, real = default(setup, folder), cifar100(setup)
        found: dict[int, Result] = {}
        here, seeds = setup.device, setup.size((0, 1, 2), (0, 1))
        for benchmark, where, results in ((embedded, "one", found), (real, "other", {})):
            run = partial(accuracies, benchmark, folder / where, here, results, seeds)
            yield Measurement(benchmark.title, run, benchmark.why_not)
        on_cpu = partial(differences, embedded, folder / "cpu", here, found)
        yield Measurement(f"{embedded.title}, {here} - cpu", on_cpu, embedded.why_not)


def accuracies(
    benchmark: Benchmark, folder: Path, device: str, results: dict[int, Result], seeds: Sequence[int]
) -> Iterator[Row]:
    """Rows after each seed, over the seeds so far."""
    for seed in seeds:
        results[seed] = result_of_seed(benchmark, folder, device, seed)
        for which in (PAPER, BEST, CONTROL):
            yield over_seeds(f"accuracy of {which}, {benchmark.title}", "%", {s: r[which] for s, r in results.items()})
        for which in (PAPER, BEST):
            took = {s: r[f"{which}, seconds"] for s, r in results.items()}
            yield over_seeds(f"seconds per seed, {which}, {benchmark.title}", "s", took)
        yield figure(f"training images of {benchmark.title}", results[seed]["images"])


def differences(benchmark: Benchmark, folder: Path, device: str, results: Mapping[int, Result]) -> Iterator[Row]:
    """Differences between the device and a CPU, seed by seed."""
    on_cpu: dict[int, Result] = {}
    for seed in results:
        on_cpu[seed] = result_of_seed(benchmark, folder, "cpu", seed)
        for which in (PAPER, BEST):
            points = {s: results[s][which] - r[which] for s, r in on_cpu.items()}
            yield over_seeds(f"accuracy of {which}, {benchmark.title}, {device} - cpu", "points", points)


def over_seeds(name: str, unit: str, values: Mapping[int, float]) -> Row:
    """The mean and spread over seeds, with the list of seeds."""
    spread = (min(values.values()), max(values.values()))
    note = f"seeds {', '.join(map(str, values))}"
    return figure(name, statistics.fmean(values.values()), unit, spread=spread, note=note)


def result_of_seed(benchmark: Benchmark, folder: Path, device: str, seed: int) -> Result:
    """One seed on a device, its stages one after the other, from queries to accuracy; seconds without the start of
    processes.
    """
    best = read_mapping(ROOT / "presets/best.yaml")
    default_params = read_mapping(ROOT / "params.yaml")
    plain = {name: default_params[name] for name in best} | benchmark.params | {"seed": seed}
    if not folder.exists():
        plain_project.make(folder, benchmark.num_tasks, **plain)
        with chdir(folder):
            run_stages(benchmark.num_tasks, {"method", "code", "download"})
    configure(folder, **plain)
    with chdir(folder), patch.dict(os.environ, DEVICE=device):
        run_stages(benchmark.num_tasks, {"split"})
        images = len(artifacts.load_tensors(artifacts.RAW_TRAIN)["labels"])
        result: dict[str, float] = {"images": images}
        for which, stages, changes in ((PAPER, LEARNING, {}), (BEST, AFTER_LAYERNORMS, best)):
            configure(Path(), **changes)
            result[f"{which}, seconds"] = seconds(partial(run_stages, benchmark.num_tasks, stages))
            evaluation = artifacts.load_json(artifacts.EVALUATION)
            result[which] = 100 * float(evaluation["metrics"]["average_accuracy"])
        result[CONTROL] = 100 * float(evaluation["metrics"]["frozen_lda_accuracy"])  # of the same queries both times
    return result
