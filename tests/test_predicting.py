"""predict on files, folders and patterns; what cannot be read; the score of none of these; the server."""

import asyncio
import contextlib
import csv
import http.client
import importlib.util
import io
import json
import socket
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.serving import serving
from harness.stage_order import run_stage
from harness.stage_repository import refusal
from pipeline.__main__ import app
from pipeline.export.write import write_folder
from pipeline.linear.gaussians import add_classes, no_gaussians
from pipeline.prediction.learner import Answer, Learner
from pipeline.prediction.novelty import choose_threshold, novelty_of
from pipeline.prediction.output import write_csv
from pipeline.store import artifacts

OUT = Path("exported")
needs_serve = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "python_multipart")),
    reason="needs the extra `serve`: pip install -c constraints.txt '.[serve]'",
)


def bomb() -> bytes:
    """A PNG of 60000 x 60000 pixels in a few kilobytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = (60000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def write_pictures() -> list[str]:
    """Three pictures, one of them in a folder inside, and two files that are none."""
    pixels = load_file(artifacts.TEST)["images"]
    names = ["pics/0.png", "pics/1.png", "pics/sub/2.png"]
    Path("pics/sub").mkdir(parents=True)
    for index, name in enumerate(names):
        Image.fromarray(pixels[9 * index].numpy()).save(name)
    Path("pics/text.txt").write_text("text")
    return names


def predicted(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["predict", *arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.usefixtures("tiny_finished")
def test_folders_and_patterns_give_the_same_answers_in_every_format() -> None:
    names = write_pictures()
    write_folder(OUT, "learner")
    code, out, err = predicted("--format", "jsonl", "pics")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, [line["image"] for line in lines]) == (0, names)
    assert "left out 1 files" in err
    assert predicted("--format", "jsonl", "--learner", str(OUT), "pics/**/*.png")[1] == out
    rows = list(csv.DictReader(predicted("--format", "csv", *names)[1].splitlines()))
    for row, line in zip(rows, lines, strict=True):
        assert (row["image"], row["class"], row["task"]) == (line["image"], line["class"], line["task"])
        assert float(row["margin"]) == pytest.approx(line["margin"])
        best = [one["probability"] for one in line["classes"]]
        assert line["margin"] == pytest.approx(best[0] - best[1], abs=2e-6)
    assert "held-out" in predicted(*names)[1]  # a narrow terminal breaks the line


@pytest.mark.usefixtures("tiny_finished")
def test_what_cannot_be_read_is_named_skipped_and_counted() -> None:
    write_pictures()
    Path("pics/bad.png").write_bytes(bomb())
    code, out, err = predicted("--format", "jsonl", "pics", "missing.png")
    assert (code, len(out.splitlines())) == (3, 3)
    assert "skipped: pics/bad.png cannot be read" in err or "skipped: pics/bad.png 60000 x 60000" in err
    assert "skipped: missing.png does not exist" in err
    assert "2 of 5 pictures could not be read" in err
    Path("empty").mkdir()
    assert "holds no images" in str(CliRunner().invoke(app, ["predict", "empty"]).exception)
    assert "matches no file" in str(CliRunner().invoke(app, ["predict", "empty/*.png"]).exception)


def test_pictures_of_other_classes_are_more_alien_than_the_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    means = 4 * torch.randn(6, 8, generator=generator)
    labels = torch.arange(6).repeat_interleave(100)

    def draw(centres: torch.Tensor) -> torch.Tensor:
        return centres[labels] + torch.randn(600, 8, generator=generator)

    novelty = novelty_of(add_classes(no_gaussians(8), draw(means), labels))
    threshold = choose_threshold(novelty.scores(draw(means)), labels)
    assert threshold
    assert (threshold.chosen_on, threshold.measured_on) == (300, 300)
    assert 0.01 < threshold.false_alarms < 0.12
    strangers = novelty.scores(draw(4 * torch.randn(6, 8, generator=generator)))
    assert float((strangers > threshold.value).float().mean()) > 0.9
    assert choose_threshold(strangers[:1], labels[:1]) is None


def test_a_line_end_in_a_name_stays_in_its_cell(capsys: pytest.CaptureFixture[str]) -> None:
    label = "one\r\nclass"
    write_csv([(Path("a\nb,c.png"), Answer(label, 0.5, 0.1, None, 1.0, is_none=False, best=[(label, 0.5)]))], None)
    header, row = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert dict(zip(header, row, strict=True))["image"] == "a\nb,c.png"
    assert row[1] == label


def asked(
    connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, object]]:
    connection.close()
    connection.request("POST", "/predict", body, headers or {"Content-Type": "image/png"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def form(*files: bytes) -> tuple[bytes, dict[str, str]]:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="%d.png"\r\n\r\n%s\r\n' % (number, content)
        for number, content in enumerate(files)
    ]
    return b"".join(parts) + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


@needs_serve
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("tiny_finished")
def test_the_server_answers_as_predict_does_and_refuses_what_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_pictures()
    write_folder(OUT, "learner")
    contents = [Path(name).read_bytes() for name in names]
    lines = predicted("--format", "jsonl", "--learner", str(OUT), *names)[1].splitlines()
    expected = [json.loads(line) | {"image": f"{number}.png"} for number, line in enumerate(lines)]
    monkeypatch.setattr("tempfile._TemporaryFileWrapper", None)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", None)  # to disk
    with serving(OUT) as port, contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        status, found = asked(connection, *form(*contents))
        assert status == 200
        answers = found["answers"]
        assert isinstance(answers, list)
        for answer, wanted in zip(answers, expected, strict=True):
            assert (answer["class"], answer["task"]) == (wanted["class"], wanted["task"])
            assert answer["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
        assert asked(connection, contents[0])[0] == 200
        status, found = asked(connection, *form(contents[0], b"no picture"))
        assert status == 200
        assert "is not an image" in str(found["answers"])
        assert asked(connection, bomb())[0] == 422
        assert asked(connection, bytes(100_001)) == (413, {"error": "more than 0.1 MB"})
        assert asked(connection, *form(*[contents[0]] * 5)) == (413, {"error": "more than 4 pictures"})
        assert asked(connection, b"")[0] == 400
        assert asked(connection, *form())[0] == 400
        connection.close()
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(10 * 2**30))
        connection.endheaders()
        with connection.getresponse() as refused:
            assert refused.status == 413, "before a byte of ten gigabytes is read"
        connection.close()
        connection.request("GET", "/", headers={"Host": "evil.example"})
        with connection.getresponse() as refused:
            assert refused.status == 400
        connection.close()
        connection.request("GET", "/")
        assert b"Drop pictures here" in connection.getresponse().read()


@needs_serve
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("tiny_finished")
def test_the_server_answers_at_every_loopback_address() -> None:
    write_folder(OUT, "learner")
    for host in ("::1", "127.0.0.2"):
        with serving(OUT, host=host) as port, contextlib.closing(http.client.HTTPConnection(host, port)) as connection:
            for named, status in ((f"[{host}]" if ":" in host else host, 200), ("localhost", 200), ("[::2]", 400)):
                connection.request("GET", "/health", headers={"Host": f"{named}:{port}"})
                with connection.getresponse() as response:
                    assert (response.status, response.read()[:1] != b"") == (status, True)


@needs_serve
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("tiny_finished")
def test_a_client_that_leaves_during_an_upload_is_no_fault() -> None:
    from pipeline.serving.application import application  # noqa: PLC0415  (an extra)

    served = application(Learner.load(), hosts=["*"], most_bytes=1000, most_pictures=4)
    heard: list[dict[str, object]] = [
        {"type": "http.request", "body": b"the first half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    said: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return heard.pop(0)

    async def send(message: dict[str, object]) -> None:
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    asyncio.run(served(scope, receive, send))
    assert said[0]["status"] == 400


@needs_serve
@pytest.mark.usefixtures("tiny_finished")
def test_serve_cannot_be_told_a_task() -> None:
    set_params(Path("params.yaml"), setting="task")
    run_stage("method")
    run_stage("evaluate")
    write_folder(OUT, "learner")
    assert "which serve cannot: use `predict --task`" in str(CliRunner().invoke(app, ["serve", str(OUT)]).exception)
    assert 'Learner.load("FOLDER", task="t1")' in (OUT / "README.md").read_text()


@needs_serve
@pytest.mark.usefixtures("tiny_finished")
def test_serve_refuses_a_folder_that_is_no_learner() -> None:
    assert "is no exported learner" in str(CliRunner().invoke(app, ["serve", "."]).exception)
    assert refusal(lambda: Learner.load("nowhere")).startswith("nowhere is no exported learner")
