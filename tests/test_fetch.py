"""Downloads from a server that misbehaves."""

import errno
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data import fetch as fetching
from pipeline.data.fetch import Missing, Remote, check_network, fetch, missing
from pipeline.data.hub import HubFile
from pipeline.errors import UserError

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
    content: bytes = handler.content  # type: ignore[attr-defined]
    if start >= len(content):
        handler.send_error(416)
    else:
        _send(handler, 206 if start else 200, len(content) - start, content[start:])


def without_ranges(handler: BaseHTTPRequestHandler, start: int) -> None:
    del start
    _send(handler, 200, len(CONTENT), CONTENT)


def wrong(handler: BaseHTTPRequestHandler, start: int) -> None:
    _send(handler, 206 if start else 200, len(CONTENT) - start, bytes(len(CONTENT) - start))


def unavailable(handler: BaseHTTPRequestHandler, start: int) -> None:
    del start
    handler.send_error(503)


def broken_after(count: int) -> Answer:
    """Send some bytes, then break the connection."""

    def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
        _send(handler, 206 if start else 200, len(CONTENT) - start, CONTENT[start:][:count])

    return answer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "PAUSES", (0.0,) * 4)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    server = Server()
    yield server
    server.stop()


def remote(server: Server, content: bytes = CONTENT) -> Remote:
    return Remote(server.url, hashlib.md5(content).hexdigest())


def listing() -> list[str]:
    return sorted(path.name for path in Path("downloads/set").iterdir())


def test_downloads_once(server: Server) -> None:
    assert fetch(remote(server), "set").read_bytes() == CONTENT
    assert fetch(remote(server), "set").read_bytes() == CONTENT
    assert server.asked == [None]
    assert listing() == ["file.bin"]


def test_resumes_where_the_connection_broke(server: Server) -> None:
    server.answers = [broken_after(1000), unavailable, broken_after(500), whole]
    assert fetch(remote(server), "set").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]


def test_starts_again_where_the_server_cannot_resume(server: Server) -> None:
    server.answers = [broken_after(1000), without_ranges]
    assert fetch(remote(server), "set").read_bytes() == CONTENT


def test_a_part_of_something_else_is_not_kept(server: Server) -> None:
    Path("downloads/set").mkdir(parents=True)
    for part in (b"x" * 100, b"x" * 2 * len(CONTENT)):
        Path("downloads/set/file.bin.part").write_bytes(part)
        assert fetch(remote(server), "set").read_bytes() == CONTENT
        assert listing() == ["file.bin"]
        Path("downloads/set/file.bin").unlink()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(wrong, "another MD5"), (unavailable, "503"), (broken_after(0), "broke after 0 of 10240 bytes")],
)
def test_says_why_and_where_to_place_the_file(server: Server, answer: Answer, reason: str) -> None:
    server.answers = [answer]
    with pytest.raises(UserError, match=f"{reason}.*put the file at downloads/set/file.bin"):
        fetch(remote(server), "set")
    assert len(server.asked) == 4
    assert "file.bin" not in listing()


def test_no_network_and_a_file_placed_by_hand(server: Server) -> None:
    server.stop()
    with pytest.raises(UserError, match=r"refused.*put the file at downloads/set/file\.bin"):
        fetch(remote(server), "set")
    Path("downloads/set/file.bin").write_bytes(CONTENT)
    assert fetch(remote(server), "set").read_bytes() == CONTENT
    Path("downloads/set/file.bin").write_bytes(b"other")
    with pytest.raises(UserError, match=r"downloads/set/file\.bin has another MD5"):
        fetch(remote(server), "set")


NO_WAY = {  # what a request raises where there is no network, or nobody who listens
    "Name or service not known": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "Temporary failure in name resolution": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "Network is unreachable": OSError(errno.ENETUNREACH, "Network is unreachable"),
    "No route to host": OSError(errno.EHOSTUNREACH, "No route to host"),
    "Connection refused": ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
}


@pytest.mark.parametrize("reason", NO_WAY)
def test_without_network_nothing_is_tried_twice(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def urlopen(request: Request, **_: object) -> None:
        asked.append(f"{request.get_method()} {request.full_url}")
        raise URLError(NO_WAY[reason])

    monkeypatch.setattr(fetching, "urlopen", urlopen)
    monkeypatch.setattr("pipeline.data.fetch.time.sleep", lambda seconds: asked.append("waits") if seconds else None)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=rf"a\.bin cannot be downloaded \({reason}\): try again, or put the file at"):
        fetch(Remote("http://one/a.bin", "0"), "set")
    assert asked == ["GET http://one/a.bin"]
    asked.clear()
    files = missing([Remote("http://one/a.bin", "0", 12.5), Remote("http://one/b.bin", "0")], "set")
    files.append(Missing("https://two/w.safetensors", 343.2, "anywhere"))
    assert [str(file) for file in files] == [
        f"a.bin (12.5 MB) from http://one/a.bin; by hand: {tmp_path}/downloads/set/a.bin",
        f"b.bin from http://one/b.bin; by hand: {tmp_path}/downloads/set/b.bin",
        "w.safetensors (343.2 MB) from https://two/w.safetensors; by hand: anywhere",
    ]
    with pytest.raises(UserError, match=rf"^one can't be reached \({reason}\): .*\(a\.bin, b\.bin, w\.safetensors\)"):
        check_network(files)
    assert asked == ["HEAD http://one/b.bin"]  # each server once


def test_a_server_that_answers_is_reached_whatever_it_says(server: Server) -> None:
    check_network(missing([remote(server)], "set"))  # it knows no HEAD: 501
    assert server.asked == []
    fetch(remote(server), "set")
    assert missing([remote(server)], "set") == []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4000), max_size=3))
def test_any_three_breaks_still_give_the_file(server: Server, counts: list[int]) -> None:
    server.answers = [*map(broken_after, counts), whole]
    assert fetch(remote(server), "set").read_bytes() == CONTENT
    Path("downloads/set/file.bin").unlink()


class Hub:
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


COPY = HubFile("somebody/copies", "there/file.bin", "v1")
PLACE_OF_COPY = "/datasets/somebody/copies/resolve/v1/there/file.bin"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub({PLACE_OF_COPY: CONTENT, "/datasets/lab/mirror/resolve/main/set/file.bin": CONTENT[::-1]})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("DATASETS_HUB", raising=False)
    yield hub
    hub.stop()


def test_the_hub_has_what_the_first_server_refuses(server: Server, hub: Hub) -> None:
    server.answers = [unavailable]
    both = replace(remote(server), hub=COPY)
    (file,) = missing([both], "set")
    assert str(file).endswith(
        "file.bin, else there/file.bin of dataset somebody/copies on the Hugging Face Hub; by hand: "
        "downloads/set/file.bin"
    )
    check_network([replace(file, url="http://127.0.0.1:9/file.bin")])  # the first server need not be there
    assert fetch(both, "set").read_bytes() == CONTENT
    assert listing() == ["file.bin"]
    assert f"GET {PLACE_OF_COPY}" in hub.asked
    asked = len(hub.asked)
    fetch(both, "set")
    assert len(hub.asked) == asked, "the file is here"


def test_the_hub_is_not_asked_while_the_first_server_answers(server: Server, hub: Hub) -> None:
    assert fetch(replace(remote(server), hub=COPY), "set").read_bytes() == CONTENT
    assert hub.asked == []


def test_a_laboratory_s_own_repository_serves_files_placed_by_hand_too(
    server: Server, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Remote("https://drive.example/view", None, file="file.bin", by_hand=True)
    assert missing([alone], "set")[0].by_hand
    with pytest.raises(UserError, match="is missing: download it in a browser"):
        fetch(alone, "set")
    monkeypatch.setenv("DATASETS_HUB", "lab/mirror")
    assert not missing([alone], "set")[0].by_hand
    assert fetch(alone, "set").read_bytes() == CONTENT[::-1]
    assert listing() == ["file.bin", "file.bin.md5"], "the first checksum seen is kept"
    assert server.asked == []
    assert hub.asked[-1] == "GET /datasets/lab/mirror/resolve/main/set/file.bin"


@pytest.mark.parametrize(
    ("copy", "reason"),
    [
        (replace(COPY, path="absent.bin"), r"nor absent.bin of dataset somebody/copies on the Hugging Face Hub \(.+\)"),
        (replace(COPY, repository="not a/name"), r"nor there/file.bin of dataset not a/name on .+ \(.+\)"),
        (HubFile("lab/mirror", "set/file.bin"), "and set/file.bin of dataset lab/mirror on .+ has another MD5"),
    ],
)
def test_both_sources_that_fail_are_named_in_one_line(copy: HubFile, reason: str, server: Server, hub: Hub) -> None:
    server.answers = [unavailable]
    with pytest.raises(
        UserError, match=rf"\(the server says 503 .+, {reason}\): try again, or put the file at"
    ) as raised:
        fetch(replace(remote(server), hub=copy), "set")
    assert "\n" not in str(raised.value)
    assert not Path("downloads/set/file.bin").exists()
    assert all(asked.partition(" ")[2] != PLACE_OF_COPY for asked in hub.asked)


def test_a_hub_out_of_reach_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [unavailable]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # its client tries again
    with pytest.raises(UserError, match=r"nor there/file.bin of dataset somebody/copies on .+ \(.+\): try again"):
        fetch(replace(remote(server), hub=COPY), "set")
