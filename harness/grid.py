"""A grid of twelve experiments for the tests of clusters, what came of it, and how often `queries` ran for it."""

from pathlib import Path

from harness.dvc_repository import Repository

SEEDS = (0, 1, 2)
_FOUR_BY_THREE = f"""
seeds: {list(SEEDS)}
variants:
  as it is: {{}}
  slower head: {{classifier_lr: 0.002}}
  one epoch less: {{classifier_epochs: 1}}
  two words: {{selection: oracle, layernorm.norms: attention}}
"""
_RESULTS = ("metrics.json", "accuracy_matrix.csv", "accuracy_over_tasks.csv", "selection.csv")


def add_grid(repository: Repository, count: Path) -> None:
    """Commit grid.yaml, and a pipeline whose `queries` adds a line to a file when it has run, on any node.

    A line names the experiment and the stage, as in `queries-1234 queries@t1`.
    """
    pipeline, command = repository.path / "dvc.yaml", "cmd: python -m stages.queries"
    assert pipeline.read_text().count(command) == 1
    pipeline.write_text(
        pipeline.read_text().replace(command, f"{command} && echo $DVC_EXP_NAME $DVC_STAGE >> '{count}'")
    )
    (repository.path / "grid.yaml").write_text(_FOUR_BY_THREE)
    repository.commit("grid")


def revisions(repository: Repository) -> dict[str, str]:
    """Commit of every experiment, by name."""
    refs = repository.run("git", "for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines()
    pairs = [line.split() for line in refs]
    return {ref.rpartition("/")[2]: revision for ref, revision in pairs if ref.count("/") == 4}


def results(repository: Repository) -> dict[str, str]:
    """Everything that each experiment found, by name."""
    return {
        name: "".join(repository.run("git", "show", f"{revision}:reports/{file}") for file in _RESULTS)
        for name, revision in revisions(repository).items()
    }
