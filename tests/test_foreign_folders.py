"""A folder that is no sound learner of this project is refused in one line that names the culprit."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.stage_repository import refusal
from pipeline.export.write import write_folder
from pipeline.prediction.learner import Learner
from pipeline.store import artifacts

OUT = Path("exported/out")


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(("parameter", "line"), [("tuning", "needs tuning mine"), ("selector", "needs selector mine")])
def test_a_learner_made_with_a_part_of_one_s_own_names_it(parameter: str, line: str) -> None:
    write_folder(OUT, "learner")
    record = artifacts.load_json(OUT / "learner.json")
    (record if parameter == "tuning" else record["settings"])[parameter] = "mine"
    artifacts.save_json(OUT / "learner.json", record)
    assert line in refusal(lambda: Learner.load(OUT))


def damage(name: str) -> None:
    """Spoil a file of the folder."""
    if name == "truncated":
        file = OUT / "tuned.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    elif name == "cut":
        (OUT / "learner.json").write_bytes((OUT / "learner.json").read_bytes()[:300])
    elif name == "missing":
        (OUT / "head.safetensors").unlink()
    elif name == "foreign":
        text = (OUT / "learner.json").read_text()
        (OUT / "learner.json").write_text(text.replace('"version": 1', '"version": 7'))
    elif name == "mixed":
        artifacts.save_tensors(OUT / "head.safetensors", {"weight": torch.zeros(6, 16), "bias": torch.zeros(6)})
    elif name == "other":
        save_file({"a": torch.zeros(1)}, OUT / "tuned.safetensors")
    else:
        (OUT / "learner.json").unlink()


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("truncated", "tuned.safetensors is damaged (its checksum does not match)"),
        ("cut", "learner.json cannot be read"),
        ("missing", "head.safetensors is missing: fetch or export the whole folder again"),
        ("foreign", "has format version 7, and this checkout reads 1"),
        ("mixed", "head.safetensors belongs to another learner than learner.json"),
        ("other", "tuned.safetensors is damaged (it has no checksum)"),
        ("none", "is no exported learner, since it has no learner.json"),
    ],
)
def test_a_folder_that_is_no_learner_is_one_line(name: str, line: str) -> None:
    write_folder(OUT, "learner")
    damage(name)
    refused = refusal(lambda: Learner.load(OUT))
    assert line in refused
    assert "\n" not in refused


@pytest.mark.usefixtures("tiny_finished")
def test_a_file_that_may_not_be_read_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(OUT, "learner")

    def deny(path: Path) -> None:
        if path.name == denied:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pipeline.store.seal.check_seal", deny)
    for denied in ("learner.json", "tuned.safetensors"):
        assert refusal(lambda: Learner.load(OUT)) == f"cannot read {OUT / denied}: Permission denied: grant access"


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize(
    "config", [{"timm": "hf-hub:a/b"}, {"timm": "x", "arguments": {"checkpoint_path": "a.pth"}}, {}]
)
def test_a_stranger_s_folder_makes_timm_fetch_and_unpickle_nothing(config: dict[str, object]) -> None:
    write_folder(OUT, "learner")
    weights, _ = artifacts.load_weights(OUT / "backbone.safetensors")
    artifacts.save_weights(OUT / "backbone.safetensors", {k: t.clone() for k, t in weights.items()}, config)
    record = artifacts.load_json(OUT / "learner.json")
    record["files"]["backbone.safetensors"] = artifacts.read_seal(OUT / "backbone.safetensors")
    artifacts.save_json(OUT / "learner.json", record)
    assert "has no configuration of a backbone that this version knows" in refusal(lambda: Learner.load(OUT))
