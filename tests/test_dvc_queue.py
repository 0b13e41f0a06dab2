"""Experiments in the queue of the real `dvc`."""

import time

from dvc_repository import Repository


def test_queued_experiments_run(repository: Repository) -> None:
    repository.dvc("exp", "run", "--queue", "-S", "classifier_lr=0.01,0.02")
    repository.dvc("queue", "start")
    deadline = time.monotonic() + 120
    while (status := repository.dvc("queue", "status")).count("Success") < 2:
        assert "Failed" not in status
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    table = repository.run("python", "-m", "pipeline", "table")
    assert "0.01" in table
    assert "0.02" in table
    repository.dvc("queue", "stop", "--kill")
