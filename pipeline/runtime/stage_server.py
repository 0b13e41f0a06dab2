"""Runs many stages without paying for the import of torch and timm each time.

A stage of a small pipeline computes for a second and imports for two. So a server (fork_server.py) imports libraries
once; a stand-in for `python` (stand_in.py), first on the PATH of a `dvc`, asks it to fork a child that runs the stage's
module from the stage's own working directory, with its environment, standard streams and exit code. If no server
answers, the stand-in is plain Python. If the stand-in is killed, so is the child. If its DVC is killed, the child ends
itself and with it the stand-in (pipeline.runtime.orphans). `python -m pipeline.dvc`, sweeps and the tests use it.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.runtime.orphans import STAND_IN

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


class StageServer(NamedTuple):
    """A server in the background."""

    process: subprocess.Popen[bytes]
    folders: tuple[Path, Path]  # of its socket, and of the stand-in
    environment: dict[str, str]  # in which `python` goes to it


def start(environment: Mapping[str, str]) -> StageServer:
    """Start a server, and wait until it answers. Raises UserError if temporary files have no place."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="stages"))
    except OSError as error:
        raise UserError(f"{error.strerror}: make room there, or let TMPDIR name another folder") from None
    address = folder / "socket"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-P", HERE / "fork_server.py", address],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    stand_in = _stand_in(folder, address)
    assert server.stdout
    with server.stdout as until_it_listens_or_ends:
        until_it_listens_or_ends.read()
    path = os.pathsep.join([str(stand_in), str(Path(sys.executable).parent), environment["PATH"]])
    return StageServer(server, (folder, stand_in), dict(environment) | {"PATH": path})


def _stand_in(folder: Path, address: Path) -> Path:
    """Where the stand-in for `python` is: in the first of two folders in which a script can be run.

    A temporary folder may be mounted noexec. If neither will do, stages run as they do without a server.
    """
    # A script of the shell, as the path of an interpreter after #! may have no spaces and is cut off where it is long.
    command = shlex.join([sys.executable, "-IS", str(HERE / "stand_in.py"), str(address)])
    for place in (folder, ROOT / ".scratch" / folder.name):
        client = place / "python"
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            client.write_text(f'#!/bin/sh\n{STAND_IN}=$$ exec {command} "$@"\n', encoding="utf-8")
            client.chmod(0o755)
            if subprocess.run([client, "-c", ""], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return place
        client.unlink(missing_ok=True)  # Python would take this one's path for its own
    return folder


def stop(server: StageServer) -> None:
    """End a server that is no longer needed; its children end by themselves."""
    server.process.terminate()
    server.process.wait()
    for folder in server.folders:
        shutil.rmtree(folder, ignore_errors=True)
