"""python -m pipeline serve."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError


def serve(
    folder: Annotated[Path, typer.Argument(help="An exported learner.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0: any free port.")] = 8000,
    megabytes: Annotated[int, typer.Option(min=1, max=1000, help="The largest upload, in megabytes.")] = 20,
    pictures: Annotated[int, typer.Option(min=1, max=1000, help="The largest number of pictures in an upload.")] = 32,
) -> None:
    """Serve a page and an HTTP endpoint that name the classes of uploaded pictures. Nothing is written to disk."""
    for module, package in (
        ("starlette", "starlette"),
        ("uvicorn", "uvicorn"),
        ("python_multipart", "python-multipart"),
    ):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"serve needs {package}: `pip install -c constraints.txt '.[serve]'`")
    from pipeline.serving.server import run  # noqa: PLC0415  (seconds of imports, and an extra)

    run(folder, host=host, port=port, most_bytes=megabytes * 1_000_000, most_pictures=pictures)
