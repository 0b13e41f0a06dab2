"""A finished run arrives at MLflow, TensorBoard and Weights & Biases."""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.stage_order import run_stage
from pipeline.__main__ import app
from pipeline.store import artifacts


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs the extra `track`")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("tiny_finished")
def test_a_run_arrives_at_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert CliRunner().invoke(app, ["log", "--to", "mlflow", "--at", "store", "--experiment", "e"]).exit_code == 0
    found = {path.name: path for path in Path("store").rglob("*") if path.is_file()}
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    logged = found["average_accuracy"].read_text().split()
    assert float(logged[1]) == pytest.approx(metrics["average_accuracy"])
    assert found["layernorm.norms"].read_text() == "all"
    assert len(found["accuracy_on_t1"].read_text().splitlines()) == 3
    assert json.loads(found["origin.json"].read_text())["files"]
    assert "report.md" in found


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs the extra `track`")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("tiny_finished")
def test_a_run_arrives_at_tensorboard() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    assert CliRunner().invoke(app, ["log", "--to", "tensorboard", "--at", "runs"]).exit_code == 0
    (folder,) = Path("runs").glob("*/*")
    read = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in read.Scalars("accuracy_on/t1")] == [1, 2, 3]
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert read.Scalars("average_accuracy")[0].value == pytest.approx(metrics["average_accuracy"])
    again = ["log", "--to", "tensorboard", "--at", "runs"]
    assert "exists: this run is logged already" in str(CliRunner().invoke(app, again).exception)
    set_params(Path("params.yaml"), classifier_lr=0.3)  # another experiment at the same commit
    for task in ("t1", "t2", "t3"):
        run_stage("stage_two", task)
    run_stage("rematch")
    run_stage("evaluate")
    assert CliRunner().invoke(app, again).exit_code == 0
    assert len(list(Path("runs").glob("*/*"))) == 2


def without_headers(log: bytes) -> bytes:
    """What a log in LevelDB's format holds: blocks of 32 KiB would else cut words in two."""
    header, block, at, content = 7, 2**15, 7, b""
    while at + header <= len(log):
        if (left := block - at % block) < header:
            at += left
            continue
        start, length = at + header, int.from_bytes(log[at + 4 : at + 6], "little")
        content, at = content + log[start : start + length], start + length
    return content


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb: pip install wandb")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("tiny_finished")
def test_a_run_arrives_at_weights_and_biases_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb  # noqa: PLC0415  (optional)

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = CliRunner().invoke(app, ["log", "--to", "wandb", "--at", str(Path.cwd())])
    assert (done.exit_code, "of continual-layernorm-tuning" in done.stdout) == (0, True), done.output
    wandb.teardown()  # waits for the process that writes the file
    (written,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    content = without_headers(written.read_bytes())
    assert all(word in content for word in (b"average_accuracy", b"layernorm", b"accuracy_on/t1", b"c_ln_lda_accuracy"))
