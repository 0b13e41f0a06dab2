"""Runs stages for the tests that drive the real `dvc`, without paying for the import of torch and timm each time.

A stage of the tiny pipeline computes for milliseconds and imports for seconds. So a server imports the third-party
libraries once; a stand-in for `python`, first on the PATH of the tests' `dvc`, asks it to fork a child that runs the
stage's module from the stage's own working directory, with its environment, standard streams and exit code. Nothing of
the project is imported before the fork.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path

CLIENT = """#!{python} -SE
import json, os, socket, struct, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps({{"argv": sys.argv[2:], "cwd": os.getcwd(), "env": dict(os.environ)}}).encode()
socket.send_fds(server, [struct.pack("!I", len(request))], [0, 1, 2])
server.sendall(request)
answer = server.recv(4)
sys.exit(struct.unpack("!i", answer)[0] if answer else 137)
"""

_KEPT: list[object] = []  # the server's own import of timm, whose operator definitions would vanish with it


def write_client(folder: Path, address: Path) -> None:
    """The stand-in for `python`."""
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)


def serve(address: str) -> None:
    """Answer requests until killed."""
    _import_libraries()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run(connection)
        connection.close()


def _import_libraries() -> None:
    from pipeline import timm_vit  # noqa: PLC0415  (timm beside a CPU-only torch)

    _KEPT.append(timm_vit)
    for name in ("matplotlib.figure", "pydantic", "rich.progress", "ruamel.yaml", "torch._dynamo", "typer"):
        __import__(name)
    for name in [name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages")]:
        del sys.modules[name]


def _run(connection: socket.socket) -> None:
    """In the child: become the stage, and report its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    request = json.loads(connection.recv(struct.unpack("!I", size)[0], socket.MSG_WAITALL))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, *arguments = request["argv"]
    sys.argv = [module, *arguments]
    sys.path[0] = request["cwd"]
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


if __name__ == "__main__":
    serve(sys.argv[1])
