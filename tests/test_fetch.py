"""Downloads from a server that misbehaves."""

import errno
import fcntl
import socket
from pathlib import Path
from queue import Queue
from threading import Thread
from urllib.error import URLError
from urllib.request import Request

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.file_server import CONTENT, Answer, Server, broken_after, remote, unavailable, whole, without_ranges, wrong
from pipeline.data import fetch as fetching
from pipeline.data.fetch import check_network, fetch
from pipeline.data.remote import Missing, Remote, missing
from pipeline.data.sets import torchvision_sets
from pipeline.errors import UserError


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


@pytest.mark.parametrize("name", ["cifar100", "mnist"])
@pytest.mark.parametrize(("answer", "reason"), [(unavailable, "503"), (wrong, "another MD5")])
def test_a_failed_download_is_not_said_of_the_files_here(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, answer: Answer, reason: str
) -> None:
    server.answers = [answer]
    monkeypatch.setitem(torchvision_sets.REMOTES, name, [remote(server)])
    with pytest.raises(
        UserError, match=rf"^http\S+ cannot be downloaded \(.*{reason}.*\): try again, or put the file at"
    ):
        torchvision_sets.load(name, Path("scratch"))


def in_background(count: int, given: Remote, outcomes: Queue[object]) -> list[Thread]:
    """Processes that fetch a file at the same time. To flock, threads are no different."""

    def attempt() -> None:
        try:
            outcomes.put(fetch(given, "set").read_bytes())
        except BaseException as error:
            outcomes.put(error)

    threads = [Thread(target=attempt, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("md5", [None, "published"])
def test_of_processes_that_need_a_file_one_downloads_it(server: Server, md5: str | None) -> None:
    server.answers = [broken_after(1000), broken_after(10), whole]
    given = remote(server) if md5 else Remote(server.url, None)
    outcomes = Queue[object]()
    for thread in in_background(4, given, outcomes):
        thread.join()
    assert [outcomes.get() for _ in range(4)] == [CONTENT] * 4
    assert server.asked == [None, "bytes=1000-", "bytes=1010-"]
    assert listing() == (["file.bin"] if md5 else ["file.bin", "file.bin.md5"])


@pytest.mark.parametrize("ends", ["with the file", "without it"])
def test_whoever_waits_says_so_and_goes_on(server: Server, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    said, outcomes = Queue[str](), Queue[object]()
    monkeypatch.setattr(fetching, "print", lambda line, **_: said.put(line), raising=False)
    Path("downloads/set").mkdir(parents=True)
    with Path("downloads/set/.file.bin.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        (waiting,) = in_background(1, remote(server), outcomes)
        assert said.get(timeout=600) == "file.bin: another process is downloading it: waiting"
        assert server.asked == []
        if ends == "with the file":
            Path("downloads/set/file.bin").write_bytes(CONTENT)
    waiting.join()
    assert outcomes.get() == CONTENT
    assert server.asked == ([] if ends == "with the file" else [None])
    assert listing() == ["file.bin"]


def test_a_file_system_without_locks_downloads_all_the_same(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pipeline.data.fetch.fcntl.flock", without)
    assert fetch(remote(server), "set").read_bytes() == CONTENT


def test_a_first_file_that_was_wrong_can_be_replaced(server: Server) -> None:
    given = Remote(server.url, None)
    server.content = b"<html>Confirm that you want to download this file</html>"
    fetch(given, "set")
    Path("downloads/set/file.bin").unlink()  # as the message of a failed unpacking says
    server.content = CONTENT
    with pytest.raises(UserError, match=r"is not the file first seen here: .* delete downloads/set/file\.bin\.md5"):
        fetch(given, "set")
    Path("downloads/set/file.bin.md5").unlink()
    assert fetch(given, "set").read_bytes() == CONTENT
    Path("downloads/set/file.bin").write_bytes(b"other")
    with pytest.raises(UserError, match=r"^downloads/set/file\.bin is not the file first seen here: delete it or, if"):
        fetch(given, "set")


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
