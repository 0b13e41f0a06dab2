"""`python -m pipeline choose`: tries the ways to use the same tuned tensors on held-out images, and takes the best."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.prompt import Confirm
from rich.table import Table

from pipeline.errors import UserError
from pipeline.experiments.queue import Cell, Sweep, Value, cells, load_experiment, read_sweep, revisions
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.params_file import changed_params
from pipeline.report.text import percent
from pipeline.store import artifacts

GRID = Path("sweeps/choose.yaml")


@dataclass(frozen=True)
class Candidate:
    """A configuration, measured on held-out training images."""

    name: str
    accuracy: float  # after the last task, mean over seeds
    forgetting: float
    passes: float  # per image at inference
    kept: float  # bytes per task
    images: int  # held out


def pick(candidates: Sequence[Candidate]) -> Candidate:
    """The one with the fewest passes among those that are as good as the best; of these the one that keeps the least.

    As good means: within one standard error of the best one's accuracy. Where the held-out images do not tell, one
    model for all tasks is the safer answer: it selects nothing, so it cannot select wrongly. And what keeps fewer
    statistics has less that can go wrong when they follow the model.
    """
    best = max(candidates, key=lambda candidate: candidate.accuracy)
    error = (best.accuracy * (1 - best.accuracy) / best.images) ** 0.5
    as_good = [candidate for candidate in candidates if candidate.accuracy >= best.accuracy - error]
    return min(as_good, key=lambda candidate: (candidate.passes, candidate.kept))


def choose(
    grid: Annotated[Path, typer.Argument(help="What to try: variants on top of params.yaml.")] = GRID,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How many seeds, from that of params.yaml on.")] = 1,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Experiments to run in parallel; default as for sweep.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write the winner into params.yaml without asking.")] = False,
) -> None:
    """Compare features, selection and classifier on a held-out fifth of the training images; write the best."""
    from pipeline.experiments.sweep import default_jobs, run_sweep  # noqa: PLC0415  (seconds of imports)

    declared = held_out(read_sweep(grid), seeds)
    wanted = cells(declared)
    jobs = jobs or default_jobs()
    first = [cell for cell in wanted if cell.variant == declared.reference]
    run_sweep(first, jobs)  # so that stage one, which all share, runs once
    failed = run_sweep(wanted, jobs)
    candidates = finished(wanted)
    if not candidates:
        raise UserError(f"none of the {len(wanted)} experiments of {grid} finished: `dvc queue logs NAME` says why")
    winner = pick(candidates)
    _show(candidates, winner)
    if failed:
        print(f"without a result: {', '.join(failed)}; `dvc queue logs NAME` says why")
    changes = {name: value for name, value in declared.variants[winner.name].items() if name != "evaluate_on"}
    new = changed_params(**nested(changes))
    if new == PARAMS_FILE.read_text(encoding="utf-8"):
        print(f"{PARAMS_FILE} already has {winner.name}")
    elif yes or Confirm.ask(f"Write {winner.name} into {PARAMS_FILE}?", default=False):
        artifacts.save_bytes(PARAMS_FILE, new.encode())
        print(f"{PARAMS_FILE} has {winner.name} now: `dvc repro` runs it")


def held_out(sweep: Sweep, seeds: int) -> Sweep:
    """The grid on held-out training images, with seeds from that of params.yaml on."""
    seed = read_mapping(PARAMS_FILE).get("seed")
    if type(seed) is not int:
        raise UserError(f"{PARAMS_FILE}: seed: expected a whole number, found {seed!r}")
    variants = {name: {**changes, "evaluate_on": "validation"} for name, changes in sweep.variants.items()}
    return sweep.model_copy(update={"seeds": [seed + at for at in range(seeds)], "variants": variants})


def finished(wanted: Sequence[Cell]) -> list[Candidate]:
    """The variants that have finished for every seed."""
    known = revisions()
    by_variant: dict[str, list[Cell]] = defaultdict(list)
    for cell in wanted:
        by_variant[cell.variant].append(cell)
    found = []
    for variant, of_variant in by_variant.items():
        if all(cell.name in known for cell in of_variant):
            metrics = [load_experiment(cell.name, known[cell.name]).metrics for cell in of_variant]
            accuracy, forgetting, passes, kept = (
                statistics.fmean({"forgetting": 0.0, **of_seed}[name] for of_seed in metrics)  # 0: a single task
                for name in ("average_accuracy", "forgetting", "passes_at_inference", "bytes_per_task")
            )
            images = sum(int(of_seed["test_images"]) for of_seed in metrics)
            found.append(Candidate(variant, accuracy, forgetting, passes, kept, images))
    return found


def nested(changes: Mapping[str, Value]) -> dict[str, Any]:
    """`{"lda.shrinkage": 0.1}` as `{"lda": {"shrinkage": 0.1}}`."""
    whole: dict[str, Any] = {}
    for key, value in changes.items():
        block, _, option = key.partition(".")
        if option:
            whole.setdefault(block, {})[option] = value
        else:
            whole[key] = value
    return whole


def _show(candidates: Sequence[Candidate], winner: Candidate) -> None:
    grid = Table("", "configuration", box=SIMPLE_HEAD, caption=f"on {winner.images:,} held-out training images")
    for column in ("accuracy (%)", "forgetting", "passes", "kept per task"):
        grid.add_column(column, justify="right")
    for candidate in sorted(candidates, key=lambda candidate: -candidate.accuracy):
        mark = ">" if candidate == winner else ""
        numbers = (
            percent(candidate.accuracy),
            percent(candidate.forgetting),
            f"{candidate.passes:g}",
            f"{candidate.kept / 1000:,.0f} kB",
        )
        grid.add_row(mark, candidate.name, *numbers)
    Console(highlight=False).print(grid)
