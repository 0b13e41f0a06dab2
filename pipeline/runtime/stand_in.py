"""Stands in for `python` on the PATH of a DVC: `stand_in.py SOCKET -m stages.split` has a server fork the stage.

This process has the stage's streams, its environment and its exit code; if it is killed, so is the stage. If no server
answers, it becomes Python itself. It runs for every stage, so it imports only what it needs.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

KILLED = 128 + signal.SIGKILL


def main(address: str, *arguments: str) -> int:
    """Have `python` run with these arguments: its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    server = socket.socket(socket.AF_UNIX)
    try:
        if arguments[:1] != ("-m",):
            raise ConnectionError
        server.connect(address)
    except OSError:
        os.execv(sys.executable, [sys.executable, *arguments])
    request = {"argv": arguments[1:], "cwd": str(Path.cwd()), "env": dict(os.environ)}
    socket.send_fds(server, [b"\n"], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\n")
    answer = server.recv(1)
    return answer[0] if answer else KILLED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
