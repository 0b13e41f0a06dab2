"""Part 3: the authors' schedule against ours, on the same images, from queries to accuracy."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.data import Benchmark, cifar100, default
from benchmarks.gpu.measuring import Measurement, Setup, of_ratio
from benchmarks.speed.against_authors import (
    Result,
    image_count,
    our_variants,
    plain_params,
    results_of_seed,
    summaries,
)
from benchmarks.speed.ratios import Row
from harness import plain_project
from harness.clone import configure
from harness.stage_order import run_stages

TITLE = "The authors' schedule against ours"
GOAL = ">= 10, equally accurate"


def measurements(setup: Setup) -> Iterator[Measurement]:
    """The embedded benchmark first: CIFAR-100 takes many times as long, and what is cut off has no result."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for benchmark in (default(setup, folder), cifar100(setup)):
            where = folder / benchmark.title.partition(",")[0]
            seeds = setup.size((0, 1), (0,))
            yield Measurement(benchmark.title, partial(ratios, benchmark, where, seeds), benchmark.why_not)


def variants(plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Our variants; for GPUs, where kernel launches limit small steps, also fewer epochs in batches of their size."""
    ours = our_variants(plain)
    one = ours["ours, 1 epoch, presets/best_domains"]
    size, rate = plain["batch_size"], 2 * plain["lr"]
    larger = {"batch_size": size, "lr": rate}
    return ours | {
        f"ours, 2 epochs, batches of {size}, lr doubled": plain | {"epochs": 2, **larger},
        f"ours, 1 epoch, batches of {size}, lr doubled, presets/best_domains": one | larger,
    }


def ratios(benchmark: Benchmark, folder: Path, seeds: Sequence[int]) -> Iterator[Row]:
    """Rows over the seeds so far, after each seed."""
    plain = plain_params(benchmark.params)
    ours = variants(plain)
    plain_project.make(folder, benchmark.num_tasks, **plain)
    results: list[dict[str, Result]] = []
    for seed in seeds:
        configure(folder, **plain, seed=seed)
        with chdir(folder):
            run_stages(benchmark.num_tasks, {"method", "code", "download", "split"})
            run_stages(benchmark.num_tasks, {"queries", "keys"})  # the first use of a device takes longer
            results.append(results_of_seed(benchmark.num_tasks, seed, ours))
            images = image_count(benchmark.num_tasks)
        for row in summaries(benchmark.title, results, images):
            goal = GOAL if row["unit"] == "x time" else row["goal"]
            yield of_ratio(row) | {"goal": goal, "note": f"seeds {', '.join(map(str, seeds[: len(results)]))}"}
