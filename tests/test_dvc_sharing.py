"""The real `dvc` with wrong parameters, between commits, between clones and in the queue."""

import json
import re
import time
from pathlib import Path

import pytest

from harness.dvc_repository import Repository, ran
from harness.parameters import set_params


@pytest.mark.parametrize(
    ("override", "stage", "message"),
    [
        ("lr=-0.1", "stage_one@t1", "error: params.yaml: lr: input should be greater than 0, found -0.1"),
        (
            "num_tasks=99",
            "split",
            "error: params.yaml: num_tasks is 99, but tasks ends at t2: `python -m pipeline plan N`",
        ),
    ],
)
def test_a_wrong_value_is_one_line(repository: Repository, override: str, stage: str, message: str) -> None:
    output = repository.dvc("exp", "run", "-S", override, fails=True)
    assert message in output
    assert f"failed to reproduce '{stage}'" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "value", "stage", "message"),
    [
        ("lr", "fast", "stage_one@t1", "error: params.yaml: lr: input should be a valid number, found 'fast'"),
        ("dataset", "omniglot", "download", "error: params.yaml: dataset 'omniglot' is unknown: choose one of glyphs"),
        ("selector", "nearest", "method", "error: params.yaml: selector 'nearest' is unknown: choose one of class"),
        (
            "tuning",
            "layer_norm",
            "method",
            "error: params.yaml: tuning 'layer_norm' is unknown: did you mean layernorm",
        ),
    ],
)
def test_a_wrong_value_written_by_hand_is_one_line(
    repository: Repository, name: str, value: str, stage: str, message: str
) -> None:
    set_params(repository.path / "params.yaml", **{name: value})
    output = repository.dvc("repro", fails=True)
    assert message in output
    assert f"failed to reproduce '{stage}'" in output
    assert "Traceback" not in output


def test_an_unknown_parameter_is_refused_by_dvc_and_by_the_stages(repository: Repository) -> None:
    assert "Could not override 'lrr'" in repository.dvc("exp", "run", "-S", "lrr=1", fails=True)
    params = repository.path / "params.yaml"
    params.write_text(params.read_text().replace("lr: 0.01 ", "lr: 0.02 ") + "lrr: 1\n")
    output = repository.dvc("repro", fails=True)
    assert "error: params.yaml: unknown key 'lrr': did you mean lr?" in output
    params.write_text(repository.run("git", "show", "HEAD:params.yaml").replace("\nlr:", "\nlrr:"))
    assert "Parameters 'lr' are missing from 'params.yaml'" in repository.dvc("repro", fails=True)


def test_integer_task_keys_are_named(repository: Repository) -> None:
    """DVC silently drops the stages of a mapping with integer keys (treeverse/dvc#8903)."""
    params = repository.path / "params.yaml"
    params.write_text(re.sub(r"  t(\d): ", r"  \1: ", params.read_text()))
    output = repository.dvc("repro", fails=True)
    assert "error: params.yaml: tasks.1: input should be a valid string, found 1" in output


def test_diffs_between_commits(repository: Repository) -> None:
    repository.dvc("exp", "run", "-S", "classifier_lr=0.05")
    repository.commit("higher classifier_lr")
    # Equal ones too: on some processors the few images of this repository count alike.
    metrics = repository.dvc("metrics", "diff", "--all", "--md", "HEAD~1", "HEAD")
    assert re.search(r"\| average_accuracy +\| 0\.\d+ +\| 0\.\d+ +\| -?[\d.]+ +\|", metrics)
    assert "nan" not in metrics
    assert re.search(r"params.yaml +classifier_lr +0.005 +0.05", repository.dvc("params", "diff", "HEAD~1", "HEAD"))
    drawn = repository.dvc("plots", "diff", "HEAD~1", "HEAD")
    assert "index.html" in drawn
    assert "failed" not in drawn
    shown = json.loads(repository.dvc("plots", "show", "--json"))
    assert not shown.get("errors")
    names = {name for name in shown["data"] if shown["data"][name]}
    assert names >= {"Average accuracy over the tasks", "Accuracy matrix", "Selected task by true task"}
    assert {name for name in names if name.endswith(".png")} == {
        f"reports/figures/{name}.png" for name in ("accuracy_matrix", "key_similarity", "over_tasks", "selection")
    }


def test_push_here_pull_there_compute_nothing(repository: Repository, tmp_path: Path) -> None:
    repository.dvc("remote", "add", "-d", "folder", str(tmp_path / "remote"))
    repository.commit("remote")
    repository.dvc("push")
    elsewhere = repository.clone(tmp_path / "elsewhere")
    elsewhere.dvc("pull")
    assert not ran(elsewhere.dvc("repro"))
    assert elsewhere.digests("artifacts/**/*", "reports/**/*") == repository.digests("artifacts/**/*", "reports/**/*")


@pytest.mark.slow
def test_queued_experiments_run(repository: Repository) -> None:
    repository.dvc("exp", "run", "--queue", "-S", "classifier_lr=0.01,0.02")
    repository.dvc("queue", "start")
    deadline = time.monotonic() + 300
    while (status := repository.dvc("queue", "status")).count("Success") < 2:
        assert "Failed" not in status
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    table = repository.run("python", "-m", "pipeline", "table")
    rows = [re.findall(r"[\w.-]+", line) for line in table.splitlines() if re.search(r"\d\.\d", line)]
    assert {row[1] for row in rows} == {"0.005", "0.01", "0.02"}
    assert "selection" in table
    repository.dvc("queue", "stop", "--kill")
