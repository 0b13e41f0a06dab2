"""The script of docs/ that runs a grid as Slurm job arrays, on a real Slurm with two nodes of one core."""

import shutil
from pathlib import Path

import pytest

from harness.dvc_repository import Repository
from harness.grid import SEEDS, add_grid, results
from harness.root import ROOT
from harness.slurm_cluster import reason_against_slurm, slurm_cluster


@pytest.mark.cluster
@pytest.mark.skipif(bool(reason_against_slurm()), reason=reason_against_slurm())
def test_a_grid_as_job_arrays_has_the_bytes_of_the_local_queue(repository: Repository, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", repository.path / "docs", dirs_exist_ok=True)
    count = tmp_path / "queries"
    add_grid(repository, count)
    shutil.copytree(repository.path, tmp_path / "local")
    local = Repository(tmp_path / "local", repository.env)
    with slurm_cluster(tmp_path / "slurm") as variables:
        own = repository.env["PATH"].partition(":")[2]  # the real Python, not the tests' server of stages
        path = f"{own}:{variables['PATH']}"
        submitting = Repository(repository.path, repository.env | variables | {"PATH": path})
        submitted = submitting.run("sh", "docs/slurm_sweep.sh", "grid.yaml", "--wait")
        assert [line.partition(":")[0] for line in submitted.splitlines()] == ["download", "queries", "evaluate"]
        logs = [file.read_text() for file in (repository.path / ".scratch/slurm").glob("*.log")]
        ran = [line for line in count.read_text().splitlines() if line.endswith("@t1")]
        assert len(ran) == len(SEEDS), f"queries ran once per distinct input, not for {ran}"
        assert {line.split()[-1] for log in logs for line in log.splitlines() if " finished on node-" in line} == {
            "node-0",
            "node-1",
        }
        assert submitting.run("sh", "docs/slurm_sweep.sh", "grid.yaml") == "", "all has finished"
        (repository.path / "params.yaml").write_text(repository.read("params.yaml") + "# mine\n")
        assert "git commit first" in submitting.run("sh", "docs/slurm_sweep.sh", "grid.yaml", fails=True)
        repository.run("git", "checkout", "-q", "params.yaml")
    assert "12 experiments: 12 finished" in repository.run("python", "-m", "pipeline", "sweep", "grid.yaml")
    local.run("python", "-m", "pipeline", "sweep", "grid.yaml", "-j", "2")
    assert len(results(local)) == 12
    assert results(repository) == results(local)
