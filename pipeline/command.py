"""Turns a function into a command whose users never meet a traceback for a mistake of theirs."""

import sys
from collections.abc import Callable

import typer

from pipeline.errors import UserError


def run(main: Callable[..., None]) -> None:
    """Run `main` with arguments from the command line; a UserError becomes one line on stderr and exit code 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a typer application in the same way."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
