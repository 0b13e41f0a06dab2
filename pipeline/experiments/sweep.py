"""Runs the unfinished experiments of a grid of variants and seeds through DVC's queue, then compares them."""

import os
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from rich.console import Console

from pipeline.errors import UserError
from pipeline.experiments import comparison
from pipeline.experiments import queue as experiments
from pipeline.experiments.queue import Cell, Sweep
from pipeline.experiments.view import progress_bar
from pipeline.health.storage import LOCK_FILE, locked
from pipeline.machine.cores import usable_cores
from pipeline.machine.device import compute_device
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.report.explanations import SEEDED, explain_seed
from pipeline.report.figures import bands, scatter
from pipeline.runtime import stage_server
from pipeline.runtime.work_log import work_by_experiment
from pipeline.store import artifacts

PUBLISHED = Path("sweeps/published.yaml")
_SECONDS_BETWEEN_LOOKS = 5.0
_LOOKS_BETWEEN_QUESTIONS = 4  # of the queue, where nothing is seen to change
_CACHED = ("artifacts", "data")  # folders of outputs that are in DVC's cache; reports are in git
_SHOWN_PARAMS = ("dataset", "num_tasks", "classes_per_task", "backbone", "image_size", "lr", "epochs", "evaluate_on")


def default_jobs() -> int:
    """One experiment at a time on a GPU; on CPUs one per core, up to four, each with its share of the threads."""
    return 1 if compute_device().type != "cpu" else min(4, usable_cores())


def run_sweep(grid: Sequence[Cell], jobs: int) -> list[str]:
    """Run every unfinished experiment of the grid and wait. Returns the names of those without a result.

    Experiments that an interrupted sweep left in the queue stay there. Those that failed, or whose machine failed, are
    tried again. On Ctrl-C, raises UserError that says how far the sweep has come.
    """
    cells = {cell.name: cell for cell in grid}
    wanted = set(cells)
    experiments.give_up_abandoned()
    finished = wanted & experiments.revisions().keys()
    states = experiments.queue_states()
    waiting = {name for name in wanted - finished if states.get(name) in ("Queued", "Running")}
    experiments.forget(sorted((wanted - finished - waiting) & states.keys()))
    console = Console(highlight=False)
    new = [cell for name, cell in cells.items() if name not in finished | waiting]
    console.print(f"{len(wanted)} experiments: {len(finished)} finished, {len(waiting)} waiting, {len(new)} new")
    if not new and not waiting:
        return []
    if new:
        check_cache(Path(experiments.cache_folder()))
    try:
        with console.status("into DVC's queue"):
            for cell in new:
                experiments.enqueue(cell)
        server = _start(jobs)
        console.print("Ctrl-C leaves the queue running: this command continues it, `dvc queue stop --kill` stops it")
        _wait(wanted, jobs, console)
    except KeyboardInterrupt:
        raise UserError(_standing(wanted)) from None
    stage_server.stop(server)  # after Ctrl-C it keeps serving the queue, and exits when that is done
    return sorted(wanted - experiments.revisions().keys())


def check_cache(cache: Path) -> None:
    """Raises UserError if the cache lacks a folder that dvc.lock names, as in a fresh clone.

    An experiment begins with that lock. When it restores two stages that another one has finished, DVC (3.67) lists the
    folders of the lock, and fails at one that it cannot list.
    """
    folders = [(path, md5) for path, md5 in locked() if md5.endswith(".dir") and path.parts[0] in _CACHED]
    missing = sorted(str(path) for path, md5 in folders if not (cache / "files/md5" / md5[:2] / md5[2:]).exists())
    if missing:
        raise UserError(
            f"DVC's cache lacks what {LOCK_FILE} names ({', '.join(missing)}), and experiments that share stages would "
            "fail: `dvc repro` first, or `dvc pull`"
        )


def _start(jobs: int) -> stage_server.StageServer:
    """Start workers on the queue. Their stages share one import of torch."""
    threads = max(1, usable_cores() // jobs)  # per worker, unless the user has set another number
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    server = stage_server.start(os.environ)
    os.environ["PATH"] = server.environment["PATH"]
    experiments.start_workers(jobs)
    return server


def _standing(wanted: Set[str]) -> str:
    """One line on how far an interrupted sweep has come, and how to continue it."""
    finished = len(wanted & experiments.revisions().keys())
    states = experiments.queue_states()
    in_queue = sum(states.get(name) in ("Queued", "Running") for name in wanted)
    standing = f"interrupted: {finished} of {len(wanted)} experiments have finished, {in_queue} are in DVC's queue"
    if not in_queue:
        return f"{standing}: run the same command to continue"
    if experiments.count_workers():
        return f"{standing}, which keeps running: the same command waits for it, `dvc queue stop --kill` stops it"
    return f"{standing}, which has no workers: the same command continues it, `dvc queue remove --queued` empties it"


def _wait(wanted: Set[str], jobs: int, console: Console) -> None:
    with progress_bar(console, len(wanted)) as show:
        for _ in _changes():
            states = {name: state for name, state in experiments.queue_states().items() if name in wanted}
            failed = sum(state in ("Failed", "Killed") for state in states.values())
            running = sorted(name for name, state in states.items() if state == "Running")
            note = ", ".join(running) + (f"; {failed} failed" if failed else "")
            show(len(wanted & experiments.revisions().keys()), note)
            if not any(state in ("Queued", "Running") for state in states.values()):
                return
            if not running:
                experiments.start_workers(jobs)  # a worker exits when it finds nothing to do


def _changes() -> Iterator[None]:
    """Yields when an experiment has started or ended, and now and then, since a killed one leaves no trace."""
    traces, same = None, 0
    while True:
        before, traces = traces, experiments.traces()
        same = same + 1 if traces == before else 0
        if same % _LOOKS_BETWEEN_QUESTIONS == 0:
            yield
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def compare(sweep: Sweep, grid: Sequence[Cell]) -> Path:
    """Write reports/comparison.md, .json and figures from the finished experiments. Returns the page's path."""
    known = experiments.revisions()
    results: dict[str, dict[int, experiments.Experiment]] = {variant: {} for variant in sweep.variants}
    for cell in grid:
        if cell.name in known:
            results[cell.variant][cell.seed] = experiments.load_experiment(cell.name, known[cell.name])
    if not any(results.values()):
        raise UserError(
            "no experiment of this grid has finished with these parameters: `python -m pipeline sweep` runs them"
        )
    rows = comparison.rows(results, sweep.variants, sweep.reference, work_by_experiment())
    params = read_mapping(PARAMS_FILE)
    content = {
        "rows": rows,
        "beside": comparison.beside(results[sweep.reference]),
        "reference": sweep.reference,
        "seeds": sweep.seeds,
        "params": {name: params[name] for name in _SHOWN_PARAMS},
        "published": read_mapping(PUBLISHED),
        "seed_moves": explain_seed(**{name: params[name] for name in SEEDED}),
    }
    artifacts.save_plain_json(artifacts.COMPARISON_JSON, content)
    drawn = {row["name"]: row for row in rows}
    curves = {name: drawn[name]["over_tasks"] for name in sweep.curves if name in drawn}
    points = {
        row["name"]: (row["metrics"]["task_parameters"]["mean"], row["metrics"]["average_accuracy"]) for row in rows
    }
    artifacts.save_bytes(artifacts.COMPARISON_FIGURES / "over_tasks.png", bands(curves))
    artifacts.save_bytes(artifacts.COMPARISON_FIGURES / "parameters.png", scatter(points))
    artifacts.save_bytes(artifacts.COMPARISON, comparison.page(content).encode())
    return artifacts.COMPARISON
