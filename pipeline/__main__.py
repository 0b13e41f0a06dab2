"""The commands beside dvc: dvc runs the stages, and these do everything else."""

import csv
import difflib
import io
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm
from rich.table import Table

from pipeline.errors import UserError, visible
from pipeline.evaluation.methods import ACCURACIES, METHODS, verdict
from pipeline.experiments.choice import choose
from pipeline.experiments.queue import cells, read_sweep, revisions
from pipeline.export.command import export
from pipeline.health.doctor import examine
from pipeline.health.findings import repair as repair_finding
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.params_file import changed_params
from pipeline.prediction.command import predict
from pipeline.report.text import percent
from pipeline.runtime.command import run_app
from pipeline.serving.command import serve
from pipeline.store import artifacts
from pipeline.tasks import MOST_TASKS
from pipeline.trackers.command import log

PRESETS = Path("presets")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)

app.command()(choose)
app.command()(export)
app.command()(predict)
app.command()(log)
app.command()(serve)

_METRICS = (*ACCURACIES.values(), "selection_accuracy", "forgetting")


@app.command()
def plan(num_tasks: Annotated[int, typer.Argument(min=1, max=MOST_TASKS, help="How many tasks to learn.")]) -> None:
    """Write num_tasks and the chain of tasks into params.yaml. Everything else is left as is, comments included."""
    artifacts.save_bytes(PARAMS_FILE, changed_params(num_tasks=num_tasks).encode())
    print(f"{PARAMS_FILE}: {num_tasks} tasks; `dvc repro` learns those that are new")


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="Name of a file in presets/, without .yaml: best, methods/l2p.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Apply without asking.")] = False,
) -> None:
    """Show what a preset changes in params.yaml and apply it once confirmed. The seed is kept."""
    files = (path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml"))
    names = sorted(files, key=lambda file: ("/" in file, file))
    if name not in names:
        raise UserError(f"preset {name!r} is unknown: choose one of {', '.join(names)}")
    new = changed_params(**read_mapping(PRESETS / f"{name}.yaml"))
    difference = list(
        difflib.unified_diff(PARAMS_FILE.read_text(encoding="utf-8").splitlines(), new.splitlines(), n=0, lineterm="")
    )
    if not difference:
        print(f"{PARAMS_FILE} already matches preset {name}")
        return
    print("\n".join(line for line in difference if not line.startswith(("---", "+++", "@@"))))
    if yes or Confirm.ask(f"Change {PARAMS_FILE}?", default=False):
        artifacts.save_bytes(PARAMS_FILE, new.encode())
        print(f"{PARAMS_FILE} is changed: presets/{name}.yaml says what to expect, `dvc repro` runs it")


@app.command()
def summary() -> None:
    """Print the main numbers of the current result."""
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    table = Table("method", "average accuracy (%)")
    table.columns[1].justify = "right"
    known = {method: metrics[metric] for method, metric in ACCURACIES.items() if metric in metrics}
    for method, accuracy in known.items():
        table.add_row(METHODS[method], percent(accuracy))
    console = Console(highlight=False)
    console.print(table)
    console.print(verdict(known), soft_wrap=True)
    facts = {"forgetting": "forgetting {} points", "selection_accuracy": "right LayerNorms selected for {} %"}
    console.print(", ".join(text.format(percent(metrics[name])) for name, text in facts.items() if name in metrics))
    console.print(f"report: {artifacts.REPORT}")


@app.command()
def report(
    page: Annotated[Path, typer.Argument(help="A page of reports/.")] = artifacts.REPORT,
    html: Annotated[bool, typer.Option("--html", help="Write the page as one HTML file beside it.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Write its tables in LaTeX beside it.")] = False,
) -> None:
    """Write reports/report.md, or another page, as HTML or its tables as LaTeX."""
    from pipeline.report.export import to_html, to_latex  # noqa: PLC0415  (other commands do without it)

    if not (html or latex):
        raise UserError("report: choose what to write: --html, --latex or both")
    try:
        text = page.read_text(encoding="utf-8")
        written = {".html": to_html(text, page.parent)} if html else {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        missing = getattr(error, "filename", None) or page
        raise UserError(f"{missing} cannot be read: {reason}: `dvc repro` writes the report and its figures") from None
    for suffix, content in (written | ({".tex": to_latex(text)} if latex else {})).items():
        artifacts.save_bytes(page.with_suffix(suffix), content.encode())
        print(f"written: {page.with_suffix(suffix)}")


@app.command("sweep")
def sweep_command(
    grid: Annotated[Path, typer.Argument(help="A file of sweeps/: variants and seeds.")],
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Experiments to run in parallel; default: one per core, at most 4; 1 on a GPU."
        ),
    ] = None,
    on: Annotated[str | None, typer.Option(help="ray: on the nodes of a Ray cluster (docs/scaling.md).")] = None,
    remote: Annotated[str | None, typer.Option(help="ray: a Git remote, for nodes that don't see this folder.")] = None,
    cpus: Annotated[float, typer.Option(min=0.01, help="ray: CPU cores per experiment.")] = 1.0,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="ray: GPUs per experiment, such as 0.5; default: 1 if there are any.")
    ] = None,
) -> None:
    """Run every variant with every seed, in DVC's queue or on a cluster, skip what has finished, and compare them."""
    from pipeline.experiments.sweep import compare, default_jobs, run_sweep  # noqa: PLC0415  (seconds of imports)

    if on not in (None, "ray"):
        raise UserError(f"--on {on} is unknown: the only cluster is ray")
    declared = read_sweep(grid)
    wanted = cells(declared)
    if on:
        from pipeline.experiments.cluster import LOGS, Resources, run_on_ray  # noqa: PLC0415

        failed, reasons = run_on_ray(wanted, Resources(cpus, gpus), remote), f"{LOGS}/NAME.log says why"
    else:
        failed, reasons = run_sweep(wanted, jobs or default_jobs()), "`dvc queue logs NAME` says why"
    if len(failed) < len(wanted):
        print(f"comparison: {compare(declared, wanted)}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(wanted)} experiments failed: {', '.join(failed)}: {reasons}; "
            "run the same command to try them again"
        )


@app.command()
def pending(grid: Annotated[Path, typer.Argument(help="A file of sweeps/: variants and seeds.")]) -> None:
    """List what a sweep has still to run, shared work first: name, last stage, arguments of dvc exp run."""
    from pipeline.experiments.shared import plan  # noqa: PLC0415

    finished = revisions()
    for name, task in plan([cell for cell in cells(read_sweep(grid)) if cell.name not in finished]).items():
        print(name, task.job["target"], shlex.join(task.job["overrides"]))


@app.command("compare")
def compare_command(grid: Annotated[Path, typer.Argument(help="A file of sweeps/: variants and seeds.")]) -> None:
    """Write reports/comparison.md and .json from the experiments that have finished."""
    from pipeline.experiments.sweep import compare  # noqa: PLC0415  (seconds of imports)

    declared = read_sweep(grid)
    print(f"comparison: {compare(declared, cells(declared))}")


@app.command()
def table() -> None:
    """Show one row per experiment: the parameters that differ, and the main metrics."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--csv", "--hide-workspace", "--no-pager"]
    shown = subprocess.run(  # in its own session: on Ctrl-C, dvc would print a traceback of its imports
        command, check=False, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    if shown.returncode:
        sys.exit(shown.returncode)  # DVC has said why
    experiments = list(csv.DictReader(io.StringIO(shown.stdout)))
    params = differing(experiments)
    headers = [name.replace("_", " ") for name in params] + [
        name.removesuffix("_accuracy").replace("_", " ") for name in _METRICS
    ]
    grid = Table(
        "experiment", *headers, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="in percent, and forgetting in points"
    )
    for row in experiments:
        # DVC shows a failed experiment with the metrics of the commit it started from.
        finished = row.get("State", "") in ("", "Success")
        cells = [row.get(name, "") if finished else "" for name in _METRICS]  # "!" where DVC can't read it
        results = ["" if cell in ("", "!") else percent(float(cell)) for cell in cells]
        name = (row["Experiment"] or row["rev"]) + ("" if finished else f" ({row['State'].lower()})")
        grid.add_row(*map(visible, (name, *(row[param] for param in params), *results)))
    for column in grid.columns:
        column.overflow = "fold"  # so that nothing is cut off in a narrow terminal
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160).print(grid)


def differing(experiments: Sequence[Mapping[str, str]]) -> list[str]:
    """The parameters that differ between rows of DVC's table, which calls an option of a block `layernorm.norms`."""
    ours = read_mapping(PARAMS_FILE).keys() - {"tasks"}
    columns = dict.fromkeys(name for row in experiments for name in row if name.partition(".")[0] in ours)
    return [name for name in columns if len({row.get(name) for row in experiments}) > 1]


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Remove or replace what is damaged or left over.")] = False,
) -> None:
    """Check environment, parameters, cache and artifacts: one line each, with the remedy if something is wrong."""
    console = Console(highlight=False, soft_wrap=True)
    wrong = 0
    for finding in examine():
        mark, remedy = ("[green]ok[/]   ", "") if finding.ok else ("[red]wrong[/]", f": {escape(finding.remedy)}")
        if finding.remove and repair:
            mark, remedy = "[yellow]fixed[/]", f": {escape(repair_finding(finding))}"
        else:
            wrong += not finding.ok
        console.print(f"{mark} {escape(finding.what)}{remedy}")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    run_app(app)
