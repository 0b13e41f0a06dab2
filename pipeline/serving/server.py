"""Runs the application with uvicorn."""

import ipaddress
import socket
import sys
from pathlib import Path

import uvicorn

from pipeline.errors import UserError
from pipeline.evaluation.settings import SETTINGS
from pipeline.prediction.learner import Learner
from pipeline.prediction.saved import read_record
from pipeline.serving.application import application

_CONNECTIONS = 64  # beyond these, 503: each may hold an upload in memory


def run(folder: Path, *, host: str, port: int, most_bytes: int, most_pictures: int) -> None:
    """Serve the learner in a folder until Ctrl-C. Raises UserError for no learner, and for a port that is taken."""
    if SETTINGS[read_record(folder).settings.setting].gives_task:
        raise UserError(f"{folder} must be told the task of each picture, which serve cannot: use `predict --task`")
    learner = Learner.load(folder)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror or error}: choose another --host or --port"
        ) from None
    hosts = allowed_hosts(host)
    if "*" in hosts:
        print(f"warning: {host} can be reached from other machines, without any login", file=sys.stderr)
    app = application(learner, hosts=hosts, most_bytes=most_bytes, most_pictures=most_pictures)
    config = uvicorn.Config(app, log_level="warning", limit_concurrency=_CONNECTIONS, timeout_keep_alive=5)
    name, bound = listening.getsockname()[:2]
    print(f"serving {folder} at http://{f'[{name}]' if ':' in name else name}:{bound} (Ctrl-C ends it)", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def allowed_hosts(host: str) -> list[str]:
    """Names under which a server that listens there answers: all, if other machines may ask it."""
    if not _is_loopback(host):
        return ["*"]
    return ["127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
