"""A grid on a Ray cluster: the bytes of the local queue, whatever dies meanwhile; and what each node may lack."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Set
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.dvc_repository import Repository
from harness.grid import SEEDS, add_grid, results, revisions
from harness.ray_cluster import add, node_of_another_python, ray_cluster
from harness.root import ROOT
from pipeline.__main__ import app
from pipeline.experiments.queue import Sweep, Value, cells
from pipeline.experiments.shared import SHARED, plan
from pipeline.params import PIPELINE_FILE, read_mapping
from pipeline.runtime import code

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: make cluster installs it")
SWEEP = ("python", "-m", "pipeline", "sweep", "grid.yaml")


@pytest.mark.usefixtures("tiny_repository")
def test_what_experiments_share_is_a_task_they_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", Path.cwd())
    subprocess.run(["git", "init", "-q"], check=True)
    variants: dict[str, dict[str, Value]] = {"a": {}, "b": {"lr": 0.5}, "larger": {"image_size": 24}}
    grid = cells(Sweep(seeds=[0, 1], reference="a", variants=variants))
    tasks = plan(grid)
    shared = [name for name in tasks if name.startswith("queries-")]
    assert len(shared) == 2, "one per seed of those of one size; the larger ones are alone, each with its own"
    assert {tasks[name].after for name in shared} == {name for name in tasks if name.startswith("download-")}
    after = {cell.name: tasks[cell.name].after.partition("-")[0] for cell in grid}
    assert [after[cell.name] for cell in grid] == [*["queries"] * 4, *["download"] * 2]
    assert list(plan(grid[:1])) == [grid[0].name], "alone, it does all by itself"


def test_the_shared_stages_are_those_that_the_pipeline_says() -> None:
    stages = read_mapping(PIPELINE_FILE)["stages"]
    outs = {name: stage.get("do", stage).get("outs", ()) for name, stage in stages.items()}
    made_by = {out: name for name, of_stage in outs.items() for out in of_stage if isinstance(out, str)}
    del made_by["artifacts/code"]
    found, waiting = set[str](), ["queries"]
    while waiting:
        stage = waiting.pop()
        found.add(stage)
        deps = stages[stage].get("do", stages[stage])["deps"]
        waiting += [by for dep in deps for out, by in made_by.items() if dep == out or dep.startswith(f"{out}/")]
    # `method` only says whether tasks are domains; its own parameters do not matter here.
    assert found == {*SHARED, "method"}, "and what `code` writes for each, which the digests of its code stand for"


def test_another_cluster_or_no_ray_is_one_line(repository: Repository) -> None:
    (repository.path / "grid.yaml").write_text("seeds: [0]\nvariants: {a: }")
    assert "error: --on sun is unknown: the only cluster is ray" in repository.run(*SWEEP, "--on", "sun", fails=True)
    without = (
        "import runpy, sys; sys.modules['ray'] = None; sys.argv = ['pipeline', *sys.argv[1:]];"
        "runpy.run_module('pipeline', run_name='__main__', alter_sys=True)"
    )
    output = repository.run("python", "-c", without, *SWEEP[3:], "--on", "ray", fails=True)
    assert output.splitlines()[-1].startswith("error: Ray is not installed: `pip install ")
    assert "Traceback" not in output


def test_help_names_the_cluster() -> None:
    assert "--on" in CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.cluster
@needs_ray
@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1", "127.0.0.1:99999", "no.such.host.invalid:6379"]
)
def test_wrong_address(address: str, repository: Repository, own_environment: dict[str, str]) -> None:
    (repository.path / "grid.yaml").write_text("seeds: [0]\nvariants: {a: }")
    output = Repository(repository.path, own_environment | {"RAY_ADDRESS": address}).run(
        *SWEEP, "--on", "ray", fails=True
    )
    assert output.splitlines()[-1].startswith(f"error: no Ray cluster at {address}: ")
    assert "Traceback" not in output


@pytest.fixture
def own_environment(repository: Repository) -> dict[str, str]:
    """Of Ray: the real Python, not the tests' server of stages, which Ray's threads would not outlive."""
    return repository.env | {"PATH": repository.env["PATH"].partition(":")[2]}


@pytest.mark.cluster
@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_the_bytes_of_the_local_queue_whatever_dies(
    repository: Repository, own_environment: dict[str, str], tmp_path: Path
) -> None:
    count = tmp_path / "queries"
    add_grid(repository, count)
    shutil.copytree(repository.path, tmp_path / "local")
    local = Repository(tmp_path / "local", repository.env)
    with ray_cluster(own_environment) as cluster:
        nodes = [add(cluster, f"node-{number}", folder=tmp_path / f"node-{number}") for number in range(3)]
        driven = Repository(repository.path, own_environment | {"RAY_ADDRESS": cluster.address})
        with _started(driven, tmp_path / "interrupted") as driver:
            shown = tmp_path / "interrupted"
            _wait_until(lambda: len(_queries_finished(shown)) == len(SEEDS) and len(revisions(driven)) > 1, driver)
            driver.send_signal(signal.SIGINT)
            assert driver.wait() == 130
        before = revisions(driven)
        last = shown.read_text().splitlines()[-1]
        said = re.fullmatch(r"error: interrupted: (\d+) of 12 experiments have finished: run the same command .*", last)
        assert said
        assert 1 < int(said[1]) <= len(before)
        with _started(driven, tmp_path / "killed") as driver:
            _wait_until(lambda: len(revisions(driven)) > len(before), driver)
            driver.kill()
        abandoned = set((tmp_path / "node-0").glob("sweep-*"))
        with _started(driven, tmp_path / "output") as driver:
            _wait_until(lambda: bool(set((tmp_path / "node-0").glob("sweep-*")) - abandoned), driver)
            cluster.remove_node(nodes[0], allow_graceful=False)
            assert driver.wait() == 0, (tmp_path / "output").read_text()
        after = revisions(driven)
        assert len(after) == 12
        assert before.items() <= after.items(), "nothing that had finished has run again"
        _check_only_the_rest_ran((tmp_path / "output").read_text(), before.keys())
        assert "12 experiments: 12 finished, 0 new" in driven.run(*SWEEP, "--on", "ray")
        ran = [line for line in count.read_text().splitlines() if line.endswith("@t1")]
        assert len(ran) == len(SEEDS), f"queries ran once per distinct input, not for {ran}"
        assert all(name.startswith("queries-") for name in ran), "as tasks that the others waited for"
        assert not list(tmp_path.glob("node-[12]/sweep-*")), "no clone is left"
    listed = driven.dvc("exp", "list", "--all-commits", "--name-only").split()
    assert sorted(listed) == sorted(after)
    table = driven.run("python", "-m", "pipeline", "table")
    assert all(name[:10] in table for name in after), table  # it folds long names
    local.run(*SWEEP, "-j", "2")
    assert results(driven) == results(local)


def _check_only_the_rest_ran(output: str, before: Set[str]) -> None:
    """What a driver said that was started again, after others had finished what is in `before`."""
    counts = re.search(r"^12 experiments: (\d+) finished, (\d+) new$", output, re.M)
    assert counts
    finished, new = map(int, counts.groups())
    assert finished + new == 12
    assert finished > len(before), "what was on its way may have come back in the meantime, too"
    ended = [name for name in re.findall(r"^(\S+) finished on \S+$", output, re.M) if "-s" in name]
    assert len(ended) == len(set(ended)) == new, "each once"
    assert not before & set(ended)


def _queries_finished(shown: Path) -> list[str]:
    return re.findall(r"^queries-\S+ finished", shown.read_text(), re.M)


@pytest.mark.cluster
@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_what_fails_is_one_line_with_the_nodes_name_and_the_others_finish(
    repository: Repository, own_environment: dict[str, str], tmp_path: Path
) -> None:
    (repository.path / "grid.yaml").write_text(
        "seeds: [0]\nvariants: {good: {classifier_lr: 0.002}, broken: {classifier: oracle_of_delphi}}"
    )
    with (
        ray_cluster(own_environment) as cluster,
        _small_disk(tmp_path / "disk") as disk,
        node_of_another_python(cluster, "without-dvc", folder=tmp_path / "python", lacks="dvc"),
    ):
        driven = Repository(repository.path, own_environment | {"RAY_ADDRESS": cluster.address})
        add(cluster, "full", folder=disk)
        alone = driven.run(*SWEEP, "--on", "ray", fails=True)
        assert re.search(
            "^without-dvc gets no more experiments: its Python, .*/python/bin/python.*, has dvc none", alone, re.M
        )
        assert re.search("^full gets no more experiments: no space left on device", alone, re.M)
        assert "error: no node is left that can run experiments" in alone
        add(cluster, "able", folder=tmp_path / "able")
        output = driven.run(*SWEEP, "--on", "ray", fails=True)
        assert re.search(r"^good-s0-\w+ finished on able$", output, re.M)
        failed = re.search(r"^(broken-s0-\w+) failed on able: .*oracle_of_delphi.* \((\S+)\)$", output, re.M)
        assert failed
        assert "oracle_of_delphi" in driven.read(failed[2])
        assert f"error: 1 of 2 experiments failed: {failed[1]}: .scratch/sweep/NAME.log says why" in output
        assert "Traceback" not in output + alone
        assert "no node of the cluster has 99 CPUs" in driven.run(*SWEEP, "--on", "ray", "--cpus", "99", fails=True)


@pytest.mark.cluster
@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_nodes_that_do_not_see_this_folder_work_through_remotes(
    repository: Repository, own_environment: dict[str, str], tmp_path: Path
) -> None:
    store, hub = tmp_path / "store", tmp_path / "hub.git"
    repository.dvc("remote", "add", "-d", "store", str(store))
    repository.run("git", "init", "-q", "--bare", str(hub))
    repository.run("git", "remote", "add", "origin", str(hub))
    repository.run("git", "commit", "-qam", "remote")
    repository.dvc("push", "--run-cache")
    (repository.path / "grid.yaml").write_text("seeds: [0]\nvariants: {a: {classifier_lr: 0.002}, b: {lr: 0.02}}")
    with ray_cluster(own_environment) as cluster:
        add(cluster, "far", folder=tmp_path / "far")
        driven = Repository(repository.path, own_environment | {"RAY_ADDRESS": cluster.address})
        assert "`git push` first" in driven.run(*SWEEP, "--on", "ray", "--remote", "origin", fails=True)
        driven.run("git", "push", "-q", "origin", "main")
        driven.run(*SWEEP, "--on", "ray", "--remote", "origin")
    names = revisions(driven)
    assert len(names) == 2
    assert len(driven.run("git", "ls-remote", str(hub), "refs/exps/*").splitlines()) == 2
    ran = [json.loads(line)["stage"] for line in driven.read(".scratch/stages.jsonl").splitlines() if line]
    assert "queries@t1" not in ran, "they come from DVC's remote"
    driven.dvc("exp", "apply", next(iter(names)), fails=True)
    driven.dvc("pull", "-q")


@contextlib.contextmanager
def _started(repository: Repository, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*SWEEP, "--on", "ray"],
            cwd=repository.path,
            env=repository.env,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_hear_ctrl_c,  # noqa: PLW1509  (our only thread)
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _hear_ctrl_c() -> None:
    """A shell lets commands that it starts in the background ignore it, and so all that these start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not reached():
        assert process.poll() is None
        time.sleep(0.2)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
