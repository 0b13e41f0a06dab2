"""A real server of a learner, in a thread."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from pipeline.prediction.learner import Learner

LIMITS = {"most_bytes": 100_000, "most_pictures": 4}


@contextlib.contextmanager
def serving(folder: Path, *, host: str = "127.0.0.1") -> Iterator[int]:
    """Its port on a loopback address; for uploads of at most 100,000 bytes and 4 pictures."""
    import uvicorn  # noqa: PLC0415  (an extra)

    from pipeline.serving.application import application  # noqa: PLC0415
    from pipeline.serving.server import allowed_hosts  # noqa: PLC0415

    made = application(Learner.load(folder), hosts=allowed_hosts(host), **LIMITS)
    server = uvicorn.Server(uvicorn.Config(made, log_level="warning"))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        ready = threading.Event()

        async def run() -> None:
            task = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
            ready.set()
            await task

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        ready.wait()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
