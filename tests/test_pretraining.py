"""The embedded backbone: the committed file is the one that is named, and the pipeline that made it still works."""

import json
from pathlib import Path

import pytest
import torch

from backbones.glyph_vit import pretrain
from backbones.glyph_vit.strokes import stroke_bitmaps
from harness.root import ROOT
from pipeline.backbone.build import build_backbone
from pipeline.backbone.pretrained import EMBEDDED, PRETRAINED, Embedded, fetch_backbone
from pipeline.data.sets import glyphs
from pipeline.data.sets.glyphs import CANVAS
from pipeline.errors import UserError
from pipeline.store import artifacts

HERE = ROOT / "backbones/glyph_vit"


def test_committed_weights_are_small_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert (HERE / "weights.safetensors").stat().st_size <= 4_000_000
    weights, config = fetch_backbone("glyph_vit", PRETRAINED)
    assert config["architecture"] == pretrain.ARCHITECTURE
    build_backbone(weights, config, image_size=32, normalize="pretrained", device=torch.device("cpu"))


def test_committed_log_and_summary_agree() -> None:
    summary = json.loads((HERE / "summary.json").read_text())
    header, *rows = (HERE / "training_log.csv").read_text().splitlines()
    assert header == "step,class_loss,ink_loss,unseen_faces_accuracy"
    assert int(rows[-1].split(",")[0]) * pretrain.BATCH == summary["images"]
    assert abs(float(rows[-1].split(",")[-1]) - summary["unseen_faces_accuracy"]) < 0.03


def test_unknown_changed_and_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'glyph_vit' has its own weights: set backbone_weights: backbones/pretrained"):
        fetch_backbone("glyph_vit", Path("other.safetensors"))
    with pytest.raises(UserError, match=r"weights.safetensors is missing: `git restore"):
        fetch_backbone("glyph_vit", PRETRAINED)
    (tmp_path / "w").write_bytes(b"other")
    monkeypatch.setitem(EMBEDDED, "other", Embedded(Path("w"), "0" * 64))
    with pytest.raises(UserError, match=r"w does not match its SHA-256 in pipeline/backbone/pretrained.py"):
        fetch_backbone("other", PRETRAINED)


def test_invented_characters_are_distinct_and_repeatable() -> None:
    drawn = stroke_bitmaps(5, 3, seed=1)
    assert drawn.shape == (5, 3, CANVAS, CANVAS)
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn, stroke_bitmaps(5, 3, seed=1))
    assert len({image.numpy().tobytes() for image in drawn.flatten(0, 1)}) == 15
    ink = (drawn > 128).float().mean((2, 3))
    assert ink.min() > 0.005
    assert ink.max() < 0.6


def test_a_few_steps_lower_the_loss_and_write_usable_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"STEPS": 24, "LOG_EVERY": 8, "WARMUP_STEPS": 4, "BATCH": 32, "INVENTED": 3, "HERE": tmp_path}
    for name, value in settings.items():
        monkeypatch.setattr(pretrain, name, value)
    for name, value in {"embed_dim": 48, "depth": 2}.items():  # Muon's bf16 products crawl where the CPU has no bf16
        monkeypatch.setitem(pretrain.ARCHITECTURE, name, value)
    accuracy = pretrain.accuracy
    monkeypatch.setattr(pretrain, "accuracy", lambda model, bitmaps, count: accuracy(model, bitmaps, min(count, 256)))
    monkeypatch.setattr(glyphs, "split_characters", lambda: ([], list("ABCDEFGH")))
    pretrain.main()
    rows = [line.split(",") for line in (tmp_path / "training_log.csv").read_text().splitlines()[1:]]
    assert float(rows[-1][2]) < 0.95 * float(rows[0][2])  # the ink is found soon, the classes take longer
    assert json.loads((tmp_path / "summary.json").read_text())["characters"] == 8
    weights, config = artifacts.load_weights(tmp_path / "weights.safetensors", is_checked=True)
    build_backbone(weights, config, image_size=32, normalize="pretrained", device=torch.device("cpu"))
