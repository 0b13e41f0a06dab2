"""Servers on this machine that serve a file as it should be, and as it should not."""

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline.data.remote import Remote

CONTENT = bytes(range(256)) * 40
Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Server:
    """Serves CONTENT. Each request uses the next of `answers`; the last one repeats."""

    def __init__(self) -> None:
        """Listen."""
        self.answers: list[Answer] = [whole]
        self.content = CONTENT
        self.asked: list[str | None] = []  # the Range of each request
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.headers["Range"])
                start = int((self.headers["Range"] or "bytes=0-")[6:-1])
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.content = outer.content
                answer(self, start)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/file.bin"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()


def _send(handler: BaseHTTPRequestHandler, status: int, length: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(body)


def whole(handler: BaseHTTPRequestHandler, start: int) -> None:
    """The file from `start` on."""
    content: bytes = handler.content  # type: ignore[attr-defined]
    if start >= len(content):
        handler.send_error(416)
    else:
        _send(handler, 206 if start else 200, len(content) - start, content[start:])


def without_ranges(handler: BaseHTTPRequestHandler, start: int) -> None:
    """The whole file, whatever was asked for."""
    del start
    _send(handler, 200, len(CONTENT), CONTENT)


def wrong(handler: BaseHTTPRequestHandler, start: int) -> None:
    """As many bytes, but others."""
    _send(handler, 206 if start else 200, len(CONTENT) - start, bytes(len(CONTENT) - start))


def unavailable(handler: BaseHTTPRequestHandler, start: int) -> None:
    """Nothing."""
    del start
    handler.send_error(503)


def broken_after(count: int) -> Answer:
    """Send some bytes, then break the connection."""

    def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
        _send(handler, 206 if start else 200, len(CONTENT) - start, CONTENT[start:][:count])

    return answer


class HubServer:
    """Stands in for the Hugging Face Hub: dataset repositories and their files, as its client asks for them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        """Listen. files: path below the server's root -> content."""
        asked: list[str] = []
        self.asked = asked

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, *, with_body: bool) -> None:
                asked.append(f"{self.command} {self.path}")
                content = files.get(self.path)
                if content is None:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start = int((self.headers["Range"] or "bytes=0-")[6:].split("-")[0])
                self.send_response(206 if self.headers["Range"] else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()
                if with_body:
                    self.wfile.write(content[start:])

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()


def remote(server: Server, content: bytes = CONTENT) -> Remote:
    """The file, with the MD5 of this content."""
    return Remote(server.url, hashlib.md5(content).hexdigest())
