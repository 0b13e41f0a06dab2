"""Which stages the real `dvc` runs again after a change, and which it skips."""

import re
from pathlib import Path

from harness.dvc_repository import Repository, cached, per_task, ran


def test_nothing_to_do_from_any_folder(repository: Repository) -> None:
    assert "up to date" in repository.dvc("repro")
    assert not ran(repository.dvc("repro", "../dvc.yaml", cwd="stages"))
    assert repository.run("git", "status", "--porcelain") == ""


def test_lr_reruns_stage_one_onward_and_the_old_value_runs_nothing(repository: Repository) -> None:
    new = repository.dvc("exp", "run", "-S", "lr=0.003")
    assert set(ran(new)) == {
        *per_task("stage_one", "features", "stage_two"),
        "rematch",
        "evaluate",
        "report",
    }
    changed = repository.dvc("params", "diff", "--md")
    assert re.search(r"\| params.yaml +\| lr +\| 0.01 +\| 0.003 +\|", changed)
    old = repository.dvc("exp", "run", "-S", "lr=0.01")
    assert set(cached(old)) == {*per_task("stage_one", "features", "stage_two"), "rematch"}
    assert ran(old) == ["evaluate", "report"]  # what git tracks never comes from DVC's cache: it bears no seal
    assert repository.run("git", "status", "--porcelain") == ""


def test_classifier_lr_runs_no_backbone_pass(repository: Repository) -> None:
    output = repository.dvc("exp", "run", "-S", "classifier_lr=0.002")
    assert set(ran(output)) == {*per_task("stage_two"), "rematch", "evaluate", "report"}


def test_tiny_numbers_survive_the_yaml_of_dvc(repository: Repository) -> None:
    repository.dvc("exp", "run", "-S", "lr=0.00001", "stage_one@t1")
    assert "lr: 1e-05" in repository.read("params.yaml")


def test_one_more_task_trains_only_the_new_one(repository: Repository) -> None:
    patterns = ("data/**/*", "artifacts/*/t[0-2].*", "artifacts/queries/**/*")  # selectors among them
    before = repository.digests(*patterns)
    repository.run("python", "-m", "pipeline", "plan", "3")
    output = repository.dvc("repro")
    new = {f"{stage}@t3" for stage in ("queries", "keys", "stage_one", "features", "stage_two")}
    assert set(ran(output)) == {"split", *new, "rematch", "evaluate", "report"}
    after = repository.digests(*patterns)
    assert {path: after[path] for path in before} == before
    assert "| t3 |" in repository.read("reports/report.md")


def test_fewer_tasks_need_only_a_parameter(repository: Repository) -> None:
    output = repository.dvc("exp", "run", "-S", "num_tasks=1")
    assert set(ran(output)) == {"split", "rematch", "evaluate", "report"}
    assert "10 classes arrive in 1 tasks" in repository.read("reports/report.md")


def test_a_second_run_from_scratch_gives_the_same_bytes(repository: Repository, tmp_path: Path) -> None:
    again = repository.clone(tmp_path / "again")
    ran_again = ran(again.dvc("repro"))
    assert len(ran_again) == 16  # all but report, which finds its inputs as committed
    everything = ("data/**/*", "artifacts/**/*", "reports/**/*", "dvc.lock")
    assert again.digests(*everything) == repository.digests(*everything)
    assert again.run("git", "status", "--porcelain") == ""
