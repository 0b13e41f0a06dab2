"""Runs many stages without paying for the import of torch and timm each time.

A stage of a small pipeline computes for a second and imports for two. So a server imports the third-party libraries
once; a stand-in for `python`, first on the PATH of a `dvc`, asks it to fork a child that runs the stage's module from
the stage's own working directory, with its environment, standard streams and exit code. Nothing of the project is
imported before the fork: a stage runs the code of its own folder. Where no server answers, the stand-in is plain
Python; when the stand-in is killed, so is the child; when its DVC is, the child ends itself, and with it the stand-in
(pipeline.runtime.orphans). Used by `python -m pipeline.dvc`, by sweeps and by the tests.
"""

import contextlib
import importlib
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.runtime.orphans import STAND_IN

ROOT = Path(__file__).parents[2]
IDLE_SECONDS = 600.0  # a server that nobody asks leaves

# A shell, as the path of an interpreter after #! may have no spaces and is cut off where it is long.
CLIENT = """#!/bin/sh
'''exec' {quoted} -SE "$0" "$@"
'''
import json, os, signal, socket, struct, sys
if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
server = socket.socket(socket.AF_UNIX)
try:
    if sys.argv[1:2] != ["-m"]:
        raise ConnectionError
    server.connect({address!r})
except OSError:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
environment = dict(os.environ, {stand_in}=str(os.getpid()))
request = json.dumps({{"argv": sys.argv[2:], "cwd": os.getcwd(), "env": environment}}).encode()
socket.send_fds(server, [struct.pack("!I", len(request))], [0, 1, 2])
server.sendall(request)
answer = server.recv(4)
sys.exit(struct.unpack("!i", answer)[0] if answer else 137)
"""

_FIRST = ("torch", "psutil", "pydantic.main", "pydantic.type_adapter", "rich.progress", "ruamel.yaml", "typer")
_SOON = "pipeline.backbone.timm_vit"  # not of all stages: imported when nobody asks
# Of few stages: imported when one has been at work for so many seconds, which may go on while a library is imported.
_LATER = {"matplotlib.figure": 0.2, "torch._dynamo": 3.5}

_KEPT: list[object] = []  # the server's own import of timm, whose operator definitions would vanish with it


class StageServer(NamedTuple):
    """A server in the background."""

    process: subprocess.Popen[bytes]
    folders: tuple[Path, Path]  # of its socket, and of the stand-in
    environment: dict[str, str]  # in which `python` goes to it


def start(environment: Mapping[str, str]) -> StageServer:
    """Start a server, and wait until it can be asked. Raises UserError where temporary files have no place."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="stages"))
    except OSError as error:
        raise UserError(f"{error.strerror}: make room there, or let TMPDIR name another folder") from None
    address = folder / "socket"
    command = [sys.executable, "-m", "pipeline.runtime.stage_server", str(address)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stand_in = _stand_in(folder, address)
    while not address.exists() and server.poll() is None:
        time.sleep(0.05)
    path = os.pathsep.join([str(stand_in), str(Path(sys.executable).parent), environment["PATH"]])
    return StageServer(server, (folder, stand_in), dict(environment) | {"PATH": path})


def _stand_in(folder: Path, address: Path) -> Path:
    """Where the stand-in for `python` is: in the first of two folders in which a script can be run.

    A temporary folder may be mounted noexec. Where neither will do, stages run as they do without a server.
    """
    quoted = shlex.quote(sys.executable)
    script = CLIENT.format(quoted=quoted, python=sys.executable, address=str(address), stand_in=STAND_IN)
    for place in (folder, ROOT / ".scratch" / folder.name):
        client = place / "python"
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            client.write_text(script, encoding="utf-8")
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


def serve(address: str) -> None:
    """Answer requests until nobody has asked for a while."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()  # who asks now waits, and meanwhile DVC starts
    for name in _FIRST:
        importlib.import_module(name)
    later = [_SOON, *_LATER]
    children, asked = set[int](), time.monotonic()
    while children or time.monotonic() - asked < IDLE_SECONDS:
        children -= _ended(children)
        listener.settimeout(0.1 if later else 5.0)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if later and (later[0] == _SOON or (children and time.monotonic() - asked > _LATER[later[0]])):
                _import_later(later.pop(0))
            continue
        asked = time.monotonic()
        child = os.fork()
        if child == 0:
            listener.close()
            _run(connection)
        children.add(child)
        connection.close()


def _ended(children: set[int]) -> set[int]:
    return {child for child in children if os.waitpid(child, os.WNOHANG)[0]}


def _import_later(module: str) -> None:
    """Import a library, or a module of the project for the sake of the library behind it."""
    _KEPT.append(importlib.import_module(module))


def _forget_project() -> None:
    """A stage runs the code of its own folder, not that which the server has imported from its own."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages")]:
        del sys.modules[name]


def _run(connection: socket.socket) -> None:
    """In the child: become the stage, and report its exit code."""
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    request = json.loads(connection.recv(struct.unpack("!I", size)[0], socket.MSG_WAITALL))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, *arguments = request["argv"]
    sys.argv = [module, *arguments]
    sys.path[0] = request["cwd"]
    _forget_project()
    threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
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
        connection.sendall(struct.pack("!i", code))
    os._exit(code)


def _die_with(connection: socket.socket) -> None:
    """End this process when the stand-in that asked for it is gone."""
    if not connection.recv(1):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1])
