"""Imports libraries once, and forks a stage for every request: `python -P fork_server.py SOCKET`.

Nothing of the project is imported here, which is why this is a script and no module of the package: a stage runs the
code of its own folder. Requests come from stand_in.py. They are answered as soon as the libraries that every stage
needs are imported. The others are imported while no request is waiting.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

IDLE_SECONDS = 600.0  # after which a server that nobody asks ends
FIRST = ("torch", "psutil", "pydantic.main", "pydantic.type_adapter", "rich.progress", "ruamel.yaml", "typer")
SCHEMAS = Path(__file__).parents[1] / "machine/torchvision_schemas.py"  # makes timm importable beside a CPU-only torch
REST = ("timm", "matplotlib.figure")


def imported() -> Iterator[object]:
    """Import what every stage needs, then the rest step by step. The caller must keep what is yielded."""
    yield [importlib.import_module(name) for name in FIRST]
    yield runpy.run_path(str(SCHEMAS))  # operators are defined for as long as this lives
    yield from map(importlib.import_module, REST)


def serve(address: str) -> None:
    """Answer requests until none has come for a while."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    os.dup2(2, 1)  # closes the pipe at which the starter waits: from now on, requests queue
    steps = imported()
    kept = [next(steps)]
    children, asked = set[int](), time.monotonic()
    while children or time.monotonic() - asked < IDLE_SECONDS:
        children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
        if select.select([listener], [], [], 0)[0]:
            children.add(_fork(listener))
            asked = time.monotonic()
        elif (step := next(steps, None)) is not None:
            kept.append(step)
        else:
            select.select([listener], [], [], 5.0)


def _fork(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    child = os.fork()
    if child == 0:
        listener.close()
        _run(connection)
    connection.close()
    return child


def _run(connection: socket.socket) -> None:
    """In the child: become the stage, and report its exit code."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = json.loads(connection.makefile().readline())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])
    sys.argv = request["argv"]
    threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
    code = 0
    try:
        runpy.run_module(request["argv"][0], run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([code & 0xFF]))
    os._exit(code)


def _die_with(connection: socket.socket) -> None:
    """End this process when the stand-in that asked for it is gone."""
    if not connection.recv(1):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1])
