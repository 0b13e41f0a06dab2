"""Hostile input: archives, names and YAML, and how a shell would read them."""

import ast
import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.faults.bad_input import QUIET
from harness.dvc_repository import Repository
from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import run_stage
from harness.stage_repository import refusal
from pipeline.data.archives import unpack
from pipeline.errors import UserError
from pipeline.experiments.comparison import page
from pipeline.params import read_mapping
from pipeline.report import figures
from pipeline.report.text import code, escape
from pipeline.store import artifacts
from stages import predict

MUCH = 24 * 2**20
NAMES = [
    "\x1b[2J\x1b]0;owned\x07",
    "a|b | c",
    "line\nbreak\r\ttab",
    "<script>alert(1)</script><!--",
    "`code` **bold** ![image](http://example.org/x.png) www.example.org me@example.org",
    "\u202etxt.exe",
    "[bold red]markup[/bold red][/]",
    "$\\frac{1}$ and $",
]


def tar_of(*members: tuple[str, int], mode: str = "w:gz") -> bytes:
    """An archive of files of zeros."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, size in members:
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    return packed.getvalue()


def zip_of(*members: tuple[str, int]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in members:
            archive.writestr(name, bytes(size))
    return packed.getvalue()


def sparse_tar() -> bytes:
    """512 bytes that claim to be a sparse file of a terabyte."""
    info = tarfile.TarInfo("hole")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = (1 << 95 | 2**40).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize(
    "pack",
    [
        lambda: tar_of(("zeros", MUCH)),
        lambda: tar_of(*((f"{index}", 0) for index in range(2000))),
        lambda: tar_of(("zeros", MUCH), mode="w:xz"),
        lambda: zip_of(("zeros", MUCH)),
        lambda: zip_of(*((f"{index}", 2**19) for index in range(99))),
        lambda: gzip.compress(b"x" * MUCH),
        sparse_tar,
    ],
    ids=["tar", "tar-of-many", "xz", "zip", "zip-of-many", "gz", "hole"],
)
def test_a_bomb_is_refused_before_it_fills_the_disk(pack: Callable[[], bytes], tmp_path: Path) -> None:
    archive = tmp_path / "archive.gz"
    archive.write_bytes(pack())
    with pytest.raises(UserError, match=r"archive.gz unpacks to more than 100 times its size: delete it"):
        unpack(archive, tmp_path / "folder")
    unpacked = sum(path.stat().st_size for path in (tmp_path / "folder").rglob("*"))
    assert unpacked <= 2**20 + 100 * archive.stat().st_size


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_what_is_no_bomb_is_unpacked(pack: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(pack(("a/small", 2**19), ("b", 0)))
    unpack(tmp_path / "archive", tmp_path / "folder")
    assert (tmp_path / "folder/a/small").stat().st_size == 2**19


ARCHIVES = [
    tar_of(("a/b", 600), ("c", 3)),
    tar_of(("a/b", 600), ("c", 3), mode="w"),
    tar_of(("a", 60), mode="w:bz2"),
    tar_of(("a", 60), mode="w:xz"),
    zip_of(("a/b", 600), ("c", 3)),
    gzip.compress(b"content" * 99),
]


@settings(QUIET, max_examples=60)
@given(st.sampled_from(ARCHIVES), st.data())
def test_a_damaged_archive_is_unpacked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "archive.gz").write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    message = refusal(lambda: unpack(folder / "archive.gz", folder / "inside"))
    assert not message or message.startswith(f"{folder}/archive.gz ")
    assert {path.name for path in folder.iterdir()} == {"archive.gz", "inside"}


@pytest.mark.usefixtures("tiny_finished")
def test_the_report_and_the_terminal_survive_names_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = artifacts.load_json(artifacts.TASKS)
    for index, name in enumerate(NAMES[:6]):
        tasks[f"t{index // 2 + 1}"][index % 2] = name
    artifacts.save_json(artifacts.TASKS, tasks)
    run_stage("evaluate")
    run_stage("report")
    lines = artifacts.REPORT.read_text().splitlines()
    rows = lines[lines.index("## Tasks") + 4 : lines.index("## Parameters") - 1]
    assert len(rows) == 3
    for row in rows:
        assert re.fullmatch(r"\| t\d \| (?:\\.|[^|\\<`*])* \|", row), row
        assert row.isprintable()
    assert not re.search(r"(?<!\\)<|http://|www\.|me@", "\n".join(rows))

    Image.new("RGB", (16, 16)).save("\x1b[31mred.png")
    capsys.readouterr()
    predict.main([Path("\x1b[31mred.png")], top=6)
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert "<script>alert(1)</script>" in re.sub(r"[\s│]", "", printed)


@given(st.text() | st.sampled_from(NAMES))
@settings(QUIET, max_examples=60)
def test_a_name_stays_in_its_cell_and_on_its_line(name: str) -> None:
    for text in (escape(name), code(name)):
        assert text.isprintable()
        assert not re.search(r"(?<!\\)(?:\\\\)*\|", text)
    assert re.fullmatch(r"(?:\\.|[^\\`*_<>\[\]|&])*", escape(name))


def test_a_comparison_survives_names_of_variants() -> None:
    spread = {"mean": 0.5, "std": 0.1, "values": [0.5]}
    points = dict.fromkeys(NAMES, (100.0, spread))
    assert figures.scatter(points)
    assert figures.bands({name: [spread] for name in NAMES})
    names = ("average_accuracy", "forgetting", "selection_accuracy", "task_parameters", "passes_at_inference")
    metrics = dict.fromkeys((*names, "gflop_at_inference"), spread)
    row: dict[str, Any] = {
        "metrics": metrics,
        "difference": None,
        "seconds": None,
        "details": [],
        "changes": {"data_dir": "a|`b"},
    }
    params = dict.fromkeys(("dataset", "num_tasks", "backbone", "evaluate_on"), "x")
    published = {"source": "", "rows": []}
    rows = [{**row, "name": name} for name in NAMES]
    beside = [{"row": "frozen_lda", "accuracy": spread, "difference": None}]
    whole = {"rows": rows, "beside": beside, "params": params, "seeds": [0], "published": published}
    text = page(whole | {"reference": NAMES[1]})
    table = text.split("## What each variant changes")[1].split("##")[0].strip().splitlines()
    assert len(table) == 2 + len(NAMES)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)


TAGS = ["!!python/object/apply:os.mkdir [pwned]", "!!python/name:os.system", "!<!os.system> x", "!custom x"]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("file", ["params.yaml", "presets/mine.yaml", "sweeps/mine.yaml", "dvc.yaml"])
def test_a_tag_runs_nothing(tag: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text(f"lr: {tag}\n")
    message = refusal(lambda: read_mapping(Path(file)))
    assert message.startswith(f"{file}, line 1: not valid YAML: could not determine a constructor")
    assert not Path("pwned").exists()


SOURCES = [path for name in ("pipeline", "stages", "backbones", "benchmarks") for path in (ROOT / name).rglob("*.py")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_builds_a_shell_or_runs_text(source: Path) -> None:
    tree = ast.parse(source.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func)
        assert name not in ("os.system", "os.popen", "eval", "exec", "pickle.load", "pickle.loads", "compile"), name
        assert not name.startswith(("os.spawn", "subprocess.getoutput", "subprocess.getstatusoutput", "pty."))
        assert not any(keyword.arg == "shell" for keyword in call.keywords), ast.unparse(call)
        if name in ("subprocess.run", "subprocess.Popen", "subprocess.check_call", "subprocess.check_output"):
            command = call.args[0]
            assert not isinstance(command, (ast.JoinedStr, ast.Constant, ast.BinOp)), ast.unparse(call)


def test_no_command_of_a_pipeline_holds_what_a_user_wrote() -> None:
    for file in (ROOT / "dvc.yaml", ROOT / "backbones/glyph_vit/dvc.yaml"):
        for stage in YAML(typ="safe", pure=True).load(file)["stages"].values():
            assert re.fullmatch(r"[a-z0-9 _./-]+", stage.get("do", stage)["cmd"])


def test_no_shell_reads_the_name_of_a_task(repository: Repository) -> None:
    """DVC puts the name into paths, where it is harmless; the first stage after a change refuses it."""
    name = "t1; touch pwned; $(touch pwned)"
    set_params(repository.path / "params.yaml", num_tasks=1, tasks={name: {"prev": "t0"}})
    assert "params.yaml: tasks is not a chain" in repository.dvc("repro", fails=True)
    (repository.path / "data/train").mkdir()  # which DVC has removed
    (repository.path / f"data/train/{name}.safetensors").write_bytes(b"")
    single = repository.dvc("repro", "--single-item", "--force", f"stage_one@{name}", fails=True)
    assert f"error: '{name}' is not a task" in single
    assert not list(repository.path.rglob("pwned*"))
