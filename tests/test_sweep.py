"""A grid through DVC's queue: it runs what is missing, never what has finished, and names what failed."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from dvc.utils.hydra import apply_overrides
from PIL import Image

from benchmarks.faults.kill import running_in
from harness.dvc_repository import Repository
from harness.parameters import set_params
from harness.root import ROOT
from pipeline.errors import UserError
from pipeline.experiments.own_inputs import named_inputs, read_inputs
from pipeline.experiments.queue import Sweep, Value, _quoted, cells, read_sweep
from pipeline.experiments.shared import plan
from pipeline.health.storage import md5_of
from pipeline.params import read_mapping
from pipeline.runtime import code

GRID = """
seeds: [0]
reference: as it is
curves: [as it is]
variants:
  as it is: {}
  slower head: {classifier_lr: 0.002}
"""


@pytest.mark.slow
def test_a_grid_outlives_its_machine_runs_once_fails_by_name_and_goes_on(repository: Repository) -> None:
    grid = repository.path / "grid.yaml"
    grid.write_text(GRID + "  broken: {classifier: oracle_of_delphi}\n")
    command = ["python", "-m", "pipeline", "sweep", "grid.yaml", "-j", "2"]
    sweep = subprocess.Popen(command, cwd=repository.path, env=repository.env, stdout=subprocess.DEVNULL)
    while not any(
        "Running stage 'stage_two" in log.read_text() for log in repository.path.glob(".dvc/tmp/exps/run/*/*.out")
    ):
        assert sweep.poll() is None
        time.sleep(0.1)
    for process in [*running_in(repository.path), psutil.Process(sweep.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    sweep.wait()
    dead = repository.dvc("queue", "status").count("Running")
    assert dead >= 1

    output = repository.run(*command, fails=True)
    counts = re.search(r"3 experiments: (\d) finished, (\d) waiting, (\d) new", output)
    assert counts
    finished, waiting, new = map(int, counts.groups())
    assert finished + waiting + new == 3
    assert new >= dead, "what was at work when the machine died"
    assert "error: 1 of 3 experiments failed: broken-s0-" in output
    rows = {row["name"]: row for row in json.loads(repository.read("reports/comparison.json"))["rows"]}
    assert set(rows) == {"as it is", "slower head"}
    committed = json.loads(repository.read("reports/metrics.json"))
    assert rows["as it is"]["metrics"]["average_accuracy"]["mean"] == committed["average_accuracy"]
    assert rows["slower head"]["seconds"] > 0
    assert "Python" in rows["slower head"]["details"][0]["environment"]
    table = repository.run("python", "-m", "pipeline", "table")
    numbers = {line.split()[0]: re.findall(r"\d+\.\d+", line) for line in table.splitlines() if "-s0-" in line}
    lr = {name.partition("-s0-")[0]: found[0] for name, found in numbers.items()}
    assert lr == {"as-it-is": "0.005", "slower-head": "0.002", "broken": "0.005"}
    assert [len(found) for name, found in numbers.items() if name.startswith("broken")] == [1], "it has no metrics"
    assert re.search(r"broken-s0-\w+ \(failed\)", table)
    assert repository.read("params.yaml") == repository.run("git", "show", "HEAD:params.yaml")

    grid.write_text(GRID)
    repository.run("git", "commit", "-qam", "unrelated", "--allow-empty")
    again = repository.run(*command)
    assert "2 experiments: 2 finished, 0 waiting, 0 new" in again
    assert "slower-head" not in repository.run("python", "-m", "pipeline", "table"), "it changed another commit"
    assert "slower head" in repository.run("python", "-m", "pipeline", "compare", "grid.yaml") + repository.read(
        "reports/comparison.md"
    )


def test_a_lock_whose_folders_are_not_in_the_cache_is_named_before_anything_is_queued(repository: Repository) -> None:
    """As in a fresh clone: experiments that share stages with a finished one would fail there, within DVC."""
    (repository.path / "grid.yaml").write_text(GRID)
    locked = {
        out["path"]: out["md5"]
        for stage in read_mapping(repository.path / "dvc.lock")["stages"].values()
        for out in stage["outs"]
    }
    md5 = locked["data/train"]
    (repository.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    output = repository.run("python", "-m", "pipeline", "sweep", "grid.yaml", fails=True)
    line = "error: DVC's cache lacks what dvc.lock names (data/train), and experiments that share stages would fail: "
    assert f"{line}`dvc repro` first, or `dvc pull`" in " ".join(output.split())
    assert "Queued" not in repository.dvc("queue", "status")


@pytest.mark.slow
def test_own_pictures_in_a_folder_of_a_larger_repository(repository: Repository) -> None:
    """Under a name in another script, and a grid with no more than it needs; then one of which nothing works."""
    shutil.rmtree(repository.path / ".git")
    larger = Repository(repository.path.parent / "larger", repository.env)
    project = Repository(larger.path / "projects/cln", repository.env)
    shutil.move(repository.path, project.path)
    larger.run("git", "init", "-qb", "main")
    for name, value in (("яблоко", 40), ("груша", 200)):
        for number in range(6):
            file = project.path / f"images/{name}/{number}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (value, 10 * number, 90)).save(file)
    set_params(project.path / "params.yaml", dataset="image_folder", classes_per_task=1)
    project.commit("all")
    (project.path / "grid.yaml").write_text("seeds: [0]\nvariants:\n  базовый:\n", encoding="utf-8")
    output = project.run("python", "-m", "pipeline", "sweep", "grid.yaml", "-j", "1")
    assert "comparison: reports/comparison.md" in output
    (row,) = json.loads(project.read("reports/comparison.json"))["rows"]
    assert (row["name"], row["seeds"], row["changes"]) == ("базовый", [0], {})
    assert 0 <= row["metrics"]["average_accuracy"]["mean"] <= 1
    assert len(row["over_tasks"]) == 2
    assert row["seconds"] > 0, "the log of stages is found, too"
    again = project.run("python", "-m", "pipeline", "sweep", "grid.yaml")
    assert "1 experiments: 1 finished, 0 waiting, 0 new" in again
    (project.path / "grid.yaml").write_text("seeds: [0]\nvariants: {broken: {classifier: oracle_of_delphi}}")
    failing = project.run("python", "-m", "pipeline", "sweep", "grid.yaml", "-j", "1", fails=True)
    assert "error: 1 of 1 experiments failed: broken-s0-" in failing
    assert "no experiment of this grid has finished" not in failing


@pytest.mark.slow
def test_interrupted_while_it_fills_the_queue(repository: Repository) -> None:
    """It reports its progress and restores the user's changes, and the same command continues it."""
    (repository.path / "grid.yaml").write_text(GRID)
    set_params(repository.path / "params.yaml", epochs=2)
    mine = repository.read("params.yaml")
    as_typed = (  # a shell that runs this in the background may have Ctrl-C ignored
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "runpy.run_module('pipeline', run_name='__main__', alter_sys=True)"
    )
    sweep = subprocess.Popen(
        ["python", "-c", as_typed, "sweep", "grid.yaml", "-j", "1"],
        cwd=repository.path,
        env=repository.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not (repository.path / ".git/refs/exps/celery/stash").exists():
        assert sweep.poll() is None
        time.sleep(0.01)
    sweep.send_signal(signal.SIGINT)
    output, _ = sweep.communicate()
    assert sweep.returncode == 130, output
    standing = re.search(r"error: interrupted: 0 of 2 experiments have finished, (\d) are in DVC's queue", output)
    assert standing
    assert "the same command" in output
    assert "Traceback" not in output
    assert repository.run("git", "symbolic-ref", "--short", "HEAD").strip() == "main"
    assert repository.read("params.yaml") == mine
    assert repository.dvc("queue", "status").count("Queued") <= int(standing[1])
    repository.dvc("queue", "stop", "--kill")


@pytest.mark.parametrize(
    "value", ["фото", "a b", "it's", 'a"b', "a\\b", "a\\", "\\'", "x,y", "${HOME}", "null", "1e-5", ""]
)
def test_a_value_arrives_as_it_was_written(value: str, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("data_dir: images\n")
    apply_overrides(params, [f"data_dir={_quoted(value)}"])
    assert read_mapping(params) == {"data_dir": value}


@pytest.mark.usefixtures("tiny_repository")
def test_names_of_experiments_are_ascii_distinct_and_of_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", Path.cwd())
    subprocess.run(["git", "init", "-q"], check=True)
    variants = ["базовый", "変種", "🙂", "Größe", "-x", "long " * 60]
    sweep = Sweep(seeds=[0], reference="🙂", variants={name: {"lr": 0.1 + at} for at, name in enumerate(variants)})
    names = [cell.name for cell in cells(sweep)]
    assert [name.rpartition("-s0-")[0] for name in names[:5]] == ["variant-1", "variant-2", "variant-3", "groe", "x"]
    assert all(name.isascii() and len(name) < 120 for name in names)
    Path("folder").mkdir()
    for path in Path().iterdir():
        if path.name not in ("folder", ".git"):
            shutil.move(path, "folder")
    monkeypatch.chdir("folder")
    monkeypatch.setattr(code, "ROOT", Path.cwd())
    assert not set(names) & {cell.name for cell in cells(sweep)}, "those of another folder are others"


@pytest.mark.usefixtures("tiny_repository")
def test_what_a_copy_of_the_repository_lacks_is_named_by_its_absolute_path() -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    for name in ("tracked", "ignored", "by_dvc"):
        Path(name, "cat").mkdir(parents=True)
        Path(name, "cat/1.png").write_bytes(b"1")
    Path(".gitignore").write_text("/ignored/\n/by_dvc/\n")
    Path("by_dvc.dvc").touch()
    subprocess.run(["git", "add", "tracked", "by_dvc.dvc"], check=True)

    def elsewhere(data_dir: str, dataset: str = "image_folder") -> str | None:
        return read_inputs(named_inputs({"data_dir": data_dir, "dataset": dataset})).elsewhere.get("data_dir")

    assert elsewhere("ignored") == str(Path("ignored").resolve())
    assert elsewhere("../outside") is None, "there is nothing: its stage says so"
    assert [elsewhere(name) for name in ("tracked", "by_dvc", "missing", str(Path("ignored").resolve()))] == [None] * 4
    assert elsewhere("ignored", dataset="glyphs") is None
    given = named_inputs({"data_dir": "ignored", "dataset": "image_folder"})
    before = read_inputs(given).digest
    for folder in ("ignored", "tracked"):
        for name in (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "@eaDir/cat/1.png", ".cache/1.png", "cat/._1.png"):
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(b"of a file browser")
    assert read_inputs(given).digest == before, "no stage reads what file browsers leave"
    assert elsewhere("tracked") is None
    Path("ignored/cat/1.png").write_bytes(b"2")
    assert read_inputs(given).digest != before, "experiments on other pictures are others"
    Path("tracked/cat/2.png").write_bytes(b"2")
    assert elsewhere("tracked") == str(Path("tracked").resolve())


@pytest.mark.usefixtures("tiny_repository")
def test_a_grid_reads_the_same_pictures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    for name in ("one", "other"):
        Path(name, "cat").mkdir(parents=True)
        Path(name, "cat/1.png").write_bytes(name.encode())
    set_params(Path("params.yaml"), dataset="image_folder", data_dir="one")
    read: list[str] = []

    def counted(paths: Iterable[Path]) -> dict[Path, str]:
        listed = list(paths)
        read.extend(map(str, listed))
        return md5_of(listed)

    monkeypatch.setattr("pipeline.experiments.own_inputs.md5_of", counted)
    changes: list[dict[str, Value]] = [{}, {"lr": 0.5}, {"data_dir": "other"}, {"lr": 0.1, "data_dir": "other"}]
    grid = cells(Sweep(seeds=[0, 1, 2], reference="0", variants={str(n): of for n, of in enumerate(changes)}))
    plan(grid)
    assert read == ["one/cat/1.png", "other/cat/1.png"]
    assert len({cell.inputs for cell in grid}) == 2
    Path("one/cat/1.png").write_bytes(b"changed")
    again = cells(Sweep(seeds=[0, 1, 2], reference="0", variants={"0": {}}))
    assert again[0].name != grid[0].name, "nothing is kept from one call to the next"


@pytest.mark.usefixtures("tiny_repository")
def test_a_name_stands_for_parameters_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", Path.cwd())
    subprocess.run(["git", "init", "-q"], check=True)
    sweep = Sweep(seeds=[0, 7], reference="a", variants={"a": {}, "b & c": {"lr": 0.5}})
    first = cells(sweep)
    assert [cell.name.rpartition("-")[0] for cell in first] == ["a-s0", "a-s7", "b-c-s0", "b-c-s7"]
    assert cells(sweep) == first
    set_params(Path("params.yaml"), epochs=9)
    changed = cells(sweep)
    assert not {cell.name for cell in first} & {cell.name for cell in changed}
    Path("pipeline/report/markdown.py").write_text("# other words")
    assert cells(sweep) == changed, "the report's code has no part in the numbers"
    Path("pipeline/tuning/loop.py").write_text("# another training")
    assert not {cell.name for cell in cells(sweep)} & {cell.name for cell in changed}


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seeds: []\nreference: a\nvariants: {a: {}}", "seeds: list should have at least 1 item"),
        ("seeds: [0]\nreference: b\nvariants: {a: {}}", "'b' is not one of its variants"),
        ("seeds: [0]\nreference: a\nvariants: {a: {lrr: 1}}", "variant 'a': 'lrr' is not a parameter"),
        ("seeds: [0]\nreference: a\nvariants: {a: {seed: 1}}", "variant 'a': 'seed' is not a parameter"),
        ("seeds: [0]\nreference: a\nvariant: {a: {}}", "variants: field required"),
        ("seeds: [0]\nvariants:", "variants: field required"),
        ("variants: {a: }", "seeds: field required"),
    ],
)
def test_a_wrong_grid_is_one_line(content: str, message: str) -> None:
    Path("grid.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_sweep(Path("grid.yaml"))
