"""python -m pipeline serve."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError


def serve(
    folder: Annotated[Path, typer.Argument(help="An exported learner.")],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    megabytes: Annotated[int, typer.Option(min=1, max=1000, help="The largest upload.")] = 20,
    pictures: Annotated[int, typer.Option(min=1, max=1000, help="The most pictures in an upload.")] = 32,
) -> None:
    """Answer uploads of pictures with classes, on a page and over HTTP. Nothing is written to disk."""
    for module, package in (
        ("starlette", "starlette"),
        ("uvicorn", "uvicorn"),
        ("python_multipart", "python-multipart"),
    ):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"serve needs {package}: `pip install -c constraints.txt '.[serve]'`")
    from pipeline.serving.server import run  # noqa: PLC0415  (seconds of imports, and an extra)

    run(folder, host=host, port=port, most_bytes=megabytes * 1_000_000, most_pictures=pictures)
