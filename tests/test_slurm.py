"""The script of docs/ that runs a grid as Slurm job arrays, on a real Slurm with two nodes of one core."""

import shutil
from pathlib import Path

import pytest

from harness.dvc_repository import Repository
from harness.root import ROOT
from harness.slurm_cluster import reason_against_slurm, slurm_cluster

GRID = """
seeds: [0, 1]
variants:
  as it is: {}
  slower head: {classifier_lr: 0.002}
  two words: {selection: oracle, layernorm.norms: attention}
"""
RESULTS = ("metrics.json", "accuracy_matrix.csv", "accuracy_over_tasks.csv", "selection.csv")


def _results(repository: Repository) -> dict[str, str]:
    refs = repository.run("git", "for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines()
    found = [line.split() for line in refs if line.split()[0].count("/") == 4]
    return {
        ref.rpartition("/")[2]: "".join(repository.run("git", "show", f"{commit}:reports/{file}") for file in RESULTS)
        for ref, commit in found
    }


@pytest.mark.cluster
@pytest.mark.skipif(bool(reason_against_slurm()), reason=reason_against_slurm())
def test_a_grid_as_job_arrays_has_the_bytes_of_the_local_queue(repository: Repository, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", repository.path / "docs", dirs_exist_ok=True)
    (repository.path / "grid.yaml").write_text(GRID)
    repository.commit("grid")
    shutil.copytree(repository.path, tmp_path / "local")
    local = Repository(tmp_path / "local", repository.env)
    with slurm_cluster(tmp_path / "slurm") as variables:
        own = repository.env["PATH"].partition(":")[2]  # the real Python, not the tests' server of stages
        path = f"{own}:{variables['PATH']}"
        submitting = Repository(repository.path, repository.env | variables | {"PATH": path})
        submitted = submitting.run("sh", "docs/slurm_sweep.sh", "grid.yaml", "--wait")
        assert [line.partition(":")[0] for line in submitted.splitlines()] == ["download", "queries", "evaluate"]
        logs = [file.read_text() for file in (repository.path / ".scratch/slurm").glob("*.log")]
        assert sum("Running stage 'queries@t1'" in log for log in logs) <= 2
        assert {line.split()[-1] for log in logs for line in log.splitlines() if " finished on node-" in line} == {
            "node-0",
            "node-1",
        }
        assert submitting.run("sh", "docs/slurm_sweep.sh", "grid.yaml") == "", "all has finished"
        (repository.path / "params.yaml").write_text(repository.read("params.yaml") + "# mine\n")
        assert "git commit first" in submitting.run("sh", "docs/slurm_sweep.sh", "grid.yaml", fails=True)
        repository.run("git", "checkout", "-q", "params.yaml")
    assert "6 experiments: 6 finished" in repository.run("python", "-m", "pipeline", "sweep", "grid.yaml")
    local.run("python", "-m", "pipeline", "sweep", "grid.yaml", "-j", "2")
    assert len(_results(local)) == 6
    assert _results(repository) == _results(local)
