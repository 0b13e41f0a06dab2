"""Turns a function into a command that shows no traceback for a user's mistake or a full disk."""

import functools
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from pipeline import interrupt
from pipeline.errors import UserError, is_refusal
from pipeline.runtime.unchanged import unchanged
from pipeline.runtime.work_log import logged

# Which task a stage learns. DVC says it in the environment, as stage_one@t3: in a command line, a shell would read it.
Task = Annotated[str, typer.Argument(envvar="DVC_STAGE", parser=lambda text: text.rpartition("@")[2])]


def run(main: Callable[..., None]) -> None:
    """Run `main` with arguments from the command line; a UserError becomes one line on stderr and exit code 1."""

    @functools.wraps(main)
    def logged_main(*arguments: object, **options: object) -> None:
        with logged(), unchanged(os.environ.get("DVC_STAGE", "")):
            main(*arguments, **options)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(logged_main)
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a typer application in the same way. Ctrl-C is one line, too."""
    with interrupt.quiet():
        _run_app(app)


def _run_app(app: typer.Typer) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not have all letters of a class's name
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about files that are refused by a line, or read all the same
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if not is_refusal(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror}: make room or grant access, then run the same command again")
    except (MemoryError, RuntimeError) as error:  # on a CPU, torch has no type of its own for it
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        sys.exit("error: out of memory: lower image_size or batch_size in params.yaml")
