"""The Hugging Face Hub as a second source, where the first server fails."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.file_server import CONTENT, HubServer, Server, remote, unavailable
from pipeline.data.fetch import check_network, fetch
from pipeline.data.hub import HubFile
from pipeline.data.remote import Remote, missing
from pipeline.errors import UserError


def listing() -> list[str]:
    return sorted(path.name for path in Path("downloads/set").iterdir())


COPY = HubFile("somebody/copies", "there/file.bin", "v1")
PLACE_OF_COPY = "/datasets/somebody/copies/resolve/v1/there/file.bin"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    hub = HubServer({PLACE_OF_COPY: CONTENT, "/datasets/lab/mirror/resolve/main/set/file.bin": CONTENT[::-1]})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("DATASETS_HUB", raising=False)
    yield hub
    hub.stop()


def test_the_hub_has_what_the_first_server_refuses(server: Server, hub: HubServer) -> None:
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


def test_the_hub_is_not_asked_while_the_first_server_answers(server: Server, hub: HubServer) -> None:
    assert fetch(replace(remote(server), hub=COPY), "set").read_bytes() == CONTENT
    assert hub.asked == []


def test_a_laboratory_s_own_repository_serves_files_placed_by_hand_too(
    server: Server, hub: HubServer, monkeypatch: pytest.MonkeyPatch
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
def test_both_sources_that_fail_are_named_in_one_line(
    copy: HubFile, reason: str, server: Server, hub: HubServer
) -> None:
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
