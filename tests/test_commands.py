"""The helper commands: predict, plan, preset, summary."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.root import ROOT
from pipeline.__main__ import app, differing
from pipeline.errors import UserError
from pipeline.params import read_mapping
from pipeline.parts import names
from pipeline.report.text import percent
from pipeline.store import artifacts
from pipeline.tasks import chain


@pytest.mark.usefixtures("tiny_finished")
def test_predict_names_what_the_evaluation_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Image files of test images get the tasks and classes that the pipeline computed for them."""
    test = load_file(artifacts.TEST)
    names = [name for names in artifacts.load_json(artifacts.TASKS).values() for name in names]
    rows = list(range(0, 30, 3))
    files = [Path(f"image{row}.png") for row in rows]
    for row, file in zip(rows, files, strict=True):
        Image.fromarray(test["images"][row].numpy()).save(file)
    capsys.readouterr()
    importlib.import_module("stages.predict").main(files, top=1)
    printed = [line for line in capsys.readouterr().out.splitlines() if "image" in line and ".png" in line]
    table = load_file(artifacts.features_file("t3"))
    heads = {name: rows[-6:] for name, rows in load_file(artifacts.heads_file("t3")).items() if ".head." in name}
    for row, line in zip(rows, printed, strict=True):
        task = int(table["selected"][-1, row])
        logits = heads["tuned.head.weight"] @ table["features"][table["rows"][-1, row]] + heads["tuned.head.bias"]
        assert f"t{task + 1}" in line
        assert names[int(logits.argmax())] in line


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"no image", "is not an image that Pillow can read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n", "is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "is not an image that Pillow can read|cannot be read"),
    ],
)
def test_predict_names_a_bad_file(content: bytes | None, message: str) -> None:
    if content is not None:
        Path("bad.png").write_bytes(content)
    with pytest.raises(UserError, match=f"bad.png {message}"):
        importlib.import_module("stages.predict").main([Path("bad.png")])


@pytest.mark.usefixtures("tiny_repository")
def test_plan_keeps_comments_and_writes_the_chain() -> None:
    shutil.copy(ROOT / "params.yaml", ".")
    assert CliRunner().invoke(app, ["plan", "5"]).exit_code == 0
    before = Path("params.yaml").read_text()
    assert CliRunner().invoke(app, ["plan", "7"]).exit_code == 0
    after = Path("params.yaml").read_text()
    assert "num_tasks: 7  # how many tasks the report covers" in after
    assert after.endswith("  t7: {prev: t6}\n")
    assert CliRunner().invoke(app, ["plan", "5"]).exit_code == 0
    assert Path("params.yaml").read_text() == before
    assert CliRunner().invoke(app, ["plan", "0"]).exit_code == 2


@pytest.mark.usefixtures("tiny_repository")
def test_line_endings_stay_as_the_file_has_them() -> None:
    """An editor on Windows, or a clone with core.autocrlf, writes CRLF."""
    shutil.copytree(ROOT / "presets", "presets")
    lines = Path("params.yaml").read_bytes().splitlines()
    for line_end in (b"\n", b"\r\n"):
        Path("params.yaml").write_bytes(line_end.join([*lines, b""]))
        for command in (["plan", "2"], ["preset", "fast", "-y"]):
            assert CliRunner().invoke(app, command).exit_code == 0
            content = Path("params.yaml").read_bytes()
            assert content.count(line_end) == content.count(b"\n")
            assert content.count(b"\r") == content.count(b"\r\n") == (content.count(b"\n") if b"\r" in line_end else 0)
        assert read_mapping(Path("params.yaml"))["num_tasks"] == 2


@pytest.mark.usefixtures("tiny_repository")
def test_a_preset_shows_what_it_changes_and_changes_it_when_told() -> None:
    shutil.copy(ROOT / "params.yaml", ".")
    shutil.copytree(ROOT / "presets", "presets")
    set_params(Path("params.yaml"), seed=3)
    before = Path("params.yaml").read_text()
    asked = CliRunner().invoke(app, ["preset", "cifar100"], input="n\n")
    assert "+dataset: cifar100" in asked.output
    assert "+  t10: {prev: t9}" in asked.output
    assert Path("params.yaml").read_text() == before
    for name in ("cifar100", "imagenet_r", "glyphs"):
        assert CliRunner().invoke(app, ["preset", name, "--yes"]).exit_code == 0
        preset = read_mapping(Path(f"presets/{name}.yaml"))
        params = read_mapping(Path("params.yaml"))
        assert {key: params[key] for key in preset} == preset
        others = {"seed", "tasks", "evaluate_on", "data_dir", *names("tuning"), *names("classifier")} - {
            params["tuning"],
            params["classifier"],
        }
        assert preset.keys() == params.keys() - others
        assert params["tasks"] == chain(params["num_tasks"])
        assert params["seed"] == 3
    if read_mapping(ROOT / "params.yaml").items() >= read_mapping(ROOT / "presets/glyphs.yaml").items():
        assert Path("params.yaml").read_text() == before  # there and back again, comments and all
    plain = read_mapping(Path("params.yaml"))
    assert CliRunner().invoke(app, ["preset", "best", "--yes"]).exit_code == 0  # on top of any
    changed = read_mapping(Path("presets/best.yaml"))
    assert read_mapping(Path("params.yaml")) == plain | changed
    assert CliRunner().invoke(app, ["preset", "glyphs", "--yes"]).exit_code == 0
    assert "already matches preset glyphs" in CliRunner().invoke(app, ["preset", "glyphs"]).output
    with pytest.raises(
        UserError,
        match="'cifar' is unknown: choose one of best, best_domains, best_photographs, cifar100, ",
    ):
        raise CliRunner().invoke(app, ["preset", "cifar"]).exception or AssertionError


def comments(text: str) -> dict[str, str]:
    """The comment behind each value."""
    return dict(re.findall(r"^(\w+): .*?  (#.*)$", text, re.MULTILINE))


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "presets").glob("*.yaml")))
def test_the_project_s_own_comments_are_true_of_every_value(name: str) -> None:
    shutil.copy(ROOT / "params.yaml", ".")
    shutil.copytree(ROOT / "presets", "presets")
    before = comments(Path("params.yaml").read_text())
    assert CliRunner().invoke(app, ["preset", name, "--yes"]).exit_code in (0, 1)
    assert comments(Path("params.yaml").read_text()) == before
    assert not [comment for comment in before.values() if comment.startswith("# or ")], "an alternative to one value"


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("lr: 0.01  # 0.01 was best of five", "lr: 0.0025\n"),
        ("lr: 0.01  # 1e-2 was best of five", "lr: 0.0025\n"),
        ("lr: 0.01  # of stage one", "lr: 0.0025  # of stage one\n"),
        ("normalize: pretrained  # we use pretrained here", "normalize: none\n"),
        ("normalize: pretrained  # pretrained | none: raw", "normalize: none  # pretrained | none: raw\n"),
        ("flip: false  # false, characters are not symmetric", "flip: true\n"),
        ("epochs: 5  # 5 as in the paper", "epochs: 5  # 5 as in the paper\n"),
    ],
)
def test_a_comment_on_the_old_value_goes_with_it(line: str, after: str) -> None:
    shutil.copytree(ROOT / "presets", "presets")
    text = (ROOT / "params.yaml").read_text()
    name = line.partition(":")[0]
    Path("params.yaml").write_text(re.sub(rf"^{name}: .*$", line, text, flags=re.MULTILINE))
    assert CliRunner().invoke(app, ["preset", "cifar100", "--yes"]).exit_code == 0
    changed = Path("params.yaml").read_text()
    assert f"\n{after}" in changed
    assert re.findall("^#.*|^$", changed, re.MULTILINE) == re.findall("^#.*|^$", text, re.MULTILINE)


@pytest.mark.usefixtures("tiny_finished")
def test_summary_prints_the_headline(capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(app, ["summary"])
    assert result.exit_code == 0, capsys.readouterr()
    accuracy = artifacts.load_json(artifacts.EVALUATION)["metrics"]["average_accuracy"]
    assert f"{100 * accuracy:.1f}" in result.output
    assert "report: reports/report.md" in result.output


@pytest.mark.usefixtures("tiny_repository")
def test_plan_names_what_is_wrong_with_the_file() -> None:
    for content, message in (("lr: [0.1", "not valid YAML"), ("", "expected `name: value` lines")):
        Path("params.yaml").write_text(content)
        with pytest.raises(UserError, match=message):
            raise CliRunner().invoke(app, ["plan", "3"]).exception or AssertionError


def test_the_table_names_options_of_blocks_that_differ() -> None:
    def row(**cells: str) -> dict[str, str]:
        return {"rev": "a", "lr": "0.01", "lda.shrinkage": "0.1", "tasks": "['t1']", "data/raw": "x"} | cells

    rows = [row(), row(rev="b", **{"lda.shrinkage": "0.2", "tasks": "['t1', 't2']", "data/raw": "y"})]
    assert differing(rows) == ["lda.shrinkage"]
    assert differing([]) == []


def test_a_half_is_rounded_alike_however_it_was_computed() -> None:
    assert {percent(0.6305), percent(0.63050000000000006), percent(1261 / 2000)} == {"63.0"}
