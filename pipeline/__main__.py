"""Commands beside the stages: plan, summary, table. Long work is DVC's: `dvc repro`, `dvc exp run`."""

import csv
import io
import subprocess
import sys
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline import artifacts
from pipeline.command import run_app
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.report import METHODS, percent
from pipeline.tasks import chain

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)

_ROWS = {
    "c_ln": "average_accuracy",
    "single_stage": "single_stage_accuracy",
    "oracle": "oracle_accuracy",
    "frozen": "frozen_accuracy",
    "frozen_ncm": "frozen_ncm_accuracy",
}

_METRICS = (*_ROWS.values(), "selection_accuracy", "forgetting")


@app.command()
def plan(num_tasks: Annotated[int, typer.Argument(min=1, help="How many tasks to learn.")]) -> None:
    """Write num_tasks and the chain of tasks into params.yaml; comments and all else stay as they are."""
    read_mapping(PARAMS_FILE)  # says what is wrong with a file that can't be read
    yaml = YAML()
    yaml.width = 120
    params = yaml.load(PARAMS_FILE)
    params["num_tasks"] = num_tasks
    tasks = CommentedMap()
    for name, item in chain(num_tasks).items():
        tasks[name] = CommentedMap(item)
        tasks[name].fa.set_flow_style()
    params["tasks"] = tasks
    text = io.StringIO()
    yaml.dump(params, text)
    artifacts.save_bytes(PARAMS_FILE, text.getvalue().encode())
    print(f"{PARAMS_FILE}: {num_tasks} tasks; `dvc repro` learns those that are new")


@app.command()
def summary() -> None:
    """Print the headline of the current result."""
    metrics = artifacts.load_json(artifacts.METRICS)
    table = Table("method", "average accuracy (%)")
    table.columns[1].justify = "right"
    for method, metric in _ROWS.items():
        table.add_row(METHODS[method], percent(metrics[metric]))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"forgetting {percent(metrics['forgetting'])} points, ", end="")
    console.print(f"right LayerNorms selected for {percent(metrics['selection_accuracy'])} %")
    console.print(f"report: {artifacts.REPORT}")


@app.command()
def table() -> None:
    """Show the experiments, a row each, with the parameters that differ and the main metrics of `dvc exp show`."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--csv", "--hide-workspace", "--no-pager"]
    shown = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if shown.returncode:
        sys.exit(shown.returncode)  # DVC has said why
    experiments = list(csv.DictReader(io.StringIO(shown.stdout)))
    params = [name for name in read_mapping(PARAMS_FILE) if len({row.get(name) for row in experiments}) > 1]
    headers = [name.replace("_", " ") for name in params] + [
        name.removesuffix("_accuracy").replace("_", " ") for name in _METRICS
    ]
    grid = Table(
        "experiment", *headers, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="in percent, and forgetting in points"
    )
    for row in experiments:
        cells = [row.get(name, "") for name in _METRICS]  # "" while it has not run, "!" where DVC can't read it
        results = ["" if cell in ("", "!") else percent(float(cell)) for cell in cells]
        grid.add_row(row["Experiment"] or row["rev"], *(row[name] for name in params), *results)
    for column in grid.columns:
        column.overflow = "fold"  # in a narrow terminal, too, nothing is cut off
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(grid)


if __name__ == "__main__":
    run_app(app)
