"""The finished learner as a folder: its answers are those of the stages' files, and of timm and ONNX Runtime alone."""

import importlib.util
import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import refusal, run_all
from pipeline.__main__ import app
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.export.folder import new_folder
from pipeline.export.write import write_folder
from pipeline.inference.manifest import read_manifest
from pipeline.prediction import saved
from pipeline.prediction.learner import Learner
from pipeline.store import artifacts
from stages import predict

PARAMS = Path("params.yaml")
OUT = Path("exported/out")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="needs the extra `export`: pip install -c constraints.txt '.[export]'",
)


def images_seen() -> Images:
    return Images.from_tensors(load_file(artifacts.TEST))


def run_with(**changes: object) -> None:
    """Run what follows stage one with other parameters."""
    set_params(PARAMS, **changes)
    for stage in ("queries", "keys", "features", "stage_two"):
        for task in ("t1", "t2", "t3"):
            run_stage(stage, task)
    run_stage("rematch")
    run_stage("evaluate")


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"selector": "entropy"},
        {"selector": "gmm", "correction": "rematch"},
        {"selector": "lda", "classifier": "cls", "correction": "arc_retention", "arc_beta": 0.0, "arc_lr": 1e-5},
        {"selection": "average", "classifier": "carried_gaussians"},
        {"selection": "latest", "classifier": "ridge_projected", "correction": "arc"},
        {"classifier": "fecam", "correction": "arc_retention", "arc_beta": 0.0, "arc_lr": 1e-5},
    ],
)
def test_a_saved_learner_predicts_bit_for_bit_as_the_stages_files(changes: dict[str, object]) -> None:
    run_with(**changes)
    expected = predict.load_learner(read_manifest().settings).predict(images_seen())
    write_folder(OUT, "learner")
    found = saved.load(OUT).learner().predict(images_seen())
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.tasks, expected.tasks)
    assert not [file for file in OUT.iterdir() if file.suffix not in (".safetensors", ".json", ".md")]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "layerwise"},
        {"tuning": "apt"},
        {"tuning": "lora", "selection": "average"},
        {"tuning": "diff_pruning", "selection": "average"},
        {"tuning": "full", "selection": "latest"},
        {"tuning": "none"},
    ],
)
def test_so_does_every_way_of_tuning(changes: dict[str, object]) -> None:
    set_params(PARAMS, **changes, lr=0.001)
    run_all(3)
    expected = predict.load_learner(read_manifest().settings).predict(images_seen())
    write_folder(OUT, "learner")
    assert torch.equal(saved.load(OUT).learner().predict(images_seen()).logits, expected.logits)
    refused = refusal(lambda: write_folder(Path("timm"), "timm"))
    if changes["tuning"] in ("layerwise", "apt"):
        assert "choose --format" in refused
    else:
        assert refused == ""
        check_timm(Path("timm"))


def check_timm(folder: Path) -> None:
    """timm alone gives the learner's logits."""
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == [name for names in read_manifest().tasks for name in names]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = timm.data.resolve_data_config(model=model)
    assert data["input_size"] == (3, 16, 16)
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = images_seen().pixels(16)
    with torch.inference_mode():
        found = model((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    expected = predict.load_learner(read_manifest().settings).predict(images_seen()).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.usefixtures("tiny_finished")
def test_one_model_is_a_plain_timm_checkpoint() -> None:
    run_with(selection="average", classifier="carried_gaussians", normalize="none")
    write_folder(OUT, "timm")
    check_timm(OUT)
    assert {file.name for file in OUT.iterdir()} == {"config.json", "model.safetensors", "README.md", "origin.json"}


@needs_onnx
@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    "changes",
    [
        {"selector": "key"},
        {"selector": "kmeans", "classifier": "ridge_projected"},
        {"selector": "lda", "classifier": "lda"},
        {"selector": "ridge"},
        {"selector": "perceptron"},
        {"selection": "average", "classifier": "carried_gaussians"},
        {"selection": "average", "classifier": "class_gaussians"},
        {"selection": "average", "classifier": "fecam"},
        {"selector": "key", "classifier": "fecam"},
        {"selection": "average", "classifier": "class_gaussians", "features": "cls_2"},
        {"selector": "lda", "classifier": "lda", "features": "last_2"},
    ],
)
def test_onnx_runtime_gives_the_same_classes_tasks_and_probabilities(changes: dict[str, object]) -> None:
    import onnxruntime  # noqa: PLC0415

    run_with(**changes)
    write_folder(OUT, "onnx")
    session = onnxruntime.InferenceSession(OUT / "model.onnx", providers=["CPUExecutionProvider"])
    expected = predict.load_learner(read_manifest().settings).predict(images_seen())
    shares, pixels = expected.logits.softmax(1), images_seen().pixels(16).numpy()
    for rows in (slice(0, 1), slice(1, 8), slice(0, len(pixels))):
        outputs = dict(
            zip([out.name for out in session.get_outputs()], session.run(None, {"pixels": pixels[rows]}), strict=True)
        )
        found = torch.from_numpy(outputs["probabilities"])
        torch.testing.assert_close(found, shares[rows], rtol=0, atol=1e-4)
        assert torch.equal(found.argmax(1), shares[rows].argmax(1))
        if "task" in outputs:
            assert torch.equal(torch.from_numpy(outputs["task"]), expected.tasks[rows])
    assert ("task" in outputs) == ("selector" in changes)


@needs_onnx
@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    ("form", "changes", "line"),
    [
        ("timm", {}, "a timm checkpoint holds one model, and this learner chooses among those of 3 tasks"),
        ("timm", {"selection": "average", "classifier": "ridge_projected"}, "the head of this classifier (projection"),
        ("timm", {"selection": "average", "classifier": "fecam"}, "the head of this classifier (factors"),
        (
            "timm",
            {"selection": "average", "classifier": "lda", "features": "cls_2"},
            "the head takes features of 32 numbers",
        ),
        ("timm", {"selection": "average", "correction": "arc"}, "correction: arc cannot be part of a timm checkpoint"),
        ("onnx", {"selector": "gmm"}, "selector: gmm is not linear, so an ONNX graph cannot hold it"),
        ("onnx", {"selector": "fuzzy_art"}, "selector: fuzzy_art is not linear"),
        ("onnx", {"selector": "entropy"}, "tuning: layernorm chooses in a way that an ONNX graph cannot hold"),
        ("onnx", {"correction": "rematch"}, "correction: rematch cannot be part of an ONNX graph"),
        ("learner", {"selection": "oracle"}, "made with selection: oracle"),
    ],
)
def test_what_a_form_cannot_hold_is_one_line_and_no_folder(form: str, changes: dict[str, object], line: str) -> None:
    run_with(**changes)
    refused = refusal(lambda: write_folder(OUT, form))  # type: ignore[arg-type]
    assert line in refused
    assert "\n" not in refused
    assert not list(Path("exported").iterdir())


@pytest.mark.usefixtures("tiny_finished")
def test_an_existing_folder_is_refused_and_an_empty_one_is_used() -> None:
    OUT.mkdir(parents=True)
    assert CliRunner().invoke(app, ["export", str(OUT)]).exit_code == 0
    before = {file.name: file.read_bytes() for file in OUT.iterdir()}
    assert "is not an empty folder" in refusal(lambda: write_folder(OUT, "learner"))
    assert {file.name: file.read_bytes() for file in OUT.iterdir()} == before
    write_folder(Path("again"), "learner")
    assert {file.name: file.read_bytes() for file in Path("again").iterdir()} == before, "the same bytes"


def test_a_mount_point_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with (
        pytest.raises(UserError, match="mount point, which no folder can replace: name a folder inside"),
        new_folder(tmp_path),
    ):
        raise AssertionError
    with new_folder(tmp_path / "inside") as folder:
        (folder / "file").touch()
    assert (tmp_path / "inside/file").exists()


@pytest.mark.usefixtures("tiny_finished")
def test_five_lines_of_python_predict() -> None:
    write_folder(OUT, "learner")
    pixels = images_seen().pixels(16).numpy()
    Image.fromarray(pixels[0]).save("a.png")
    learner = Learner.load(OUT)
    answers = learner.predict(["a.png", Path("a.png"), Path("a.png").read_bytes(), Image.open("a.png"), pixels[0]])
    assert len(set(map(str, answers))) == 1
    assert answers == Learner.load().predict(["a.png"] * 5)
    assert "does not exist" in refusal(lambda: learner.predict(["b.png"]))
    card = (OUT / "README.md").read_text()
    assert all(word in card for word in ("average_accuracy", "false-alarm rate", "| t3 |", "Commit"))
