"""Turns a function into a command whose users never meet a traceback for a mistake of theirs or a full disk."""

import functools
import os
import sys
from collections.abc import Callable

import typer

from pipeline.errors import REFUSALS, UserError
from pipeline.unchanged import unchanged
from pipeline.work_log import logged


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
    """Run a typer application in the same way."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror}: make room or grant access, then the same command again")
