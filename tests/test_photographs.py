"""Photographs: users of the glyph backbone are warned, and the preset for photographs trains."""

from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import run_stage
from harness.stage_repository import prepare
from harness.tiny import random_images
from pipeline.data.images import Images
from pipeline.data.packing import encode
from pipeline.params import read_mapping
from pipeline.store import artifacts
from pipeline.tuning.kind import find_kind
from pipeline.tuning.loop import Schedule, too_few_steps


@pytest.mark.usefixtures("tiny_repository")
def test_the_backbone_of_the_glyphs_warns_of_other_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate(random_images(20)):
        file = Path(f"mine/class {index % 2}/{index}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(file)
    monkeypatch.setattr("stages.download.fetch_backbone", lambda *_: ({}, {}))
    monkeypatch.setattr("stages.download.missing_weights", lambda *_: [])
    for changes, warned in (
        ({"dataset": "image_folder", "data_dir": "mine"}, True),
        ({"dataset": "image_folder", "data_dir": "mine", "backbone": "vit_tiny_patch16_224"}, False),
        ({"dataset": "glyphs", "backbone": "glyph_vit"}, False),
    ):
        set_params(Path("params.yaml"), **changes)
        run_stage("method")
        run_stage("download")
        assert ("warning: backbone glyph_vit was pretrained only on drawn" in capsys.readouterr().out) == warned


def test_the_preset_for_photographs_makes_enough_steps_of_a_few_pictures() -> None:
    preset = read_mapping(ROOT / "presets/photographs.yaml")
    schedule = Schedule(preset["batch_size"], preset["lr"], preset["epochs"], preset["min_crop"], preset["flip"])
    assert not too_few_steps(2 * 30, schedule, find_kind("layernorm").size)  # two classes of thirty pictures


@pytest.mark.usefixtures("tiny_repository")
def test_stage_one_says_so_before_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    prepare()
    capsys.readouterr()
    run_stage("stage_one", "t1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning: stage one, t1: too few steps to learn from: 2 at lr 0.01")
    set_params(Path("params.yaml"), batch_size=2)
    run_stage("stage_one", "t1")
    assert "warning" not in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_repository")
def test_an_input_larger_than_the_stored_images_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stored, side, warned in (("arrays", 8, False), ("files", 16, False), ("files", 8, True)):
        if stored == "files":
            for file in (artifacts.RAW_TRAIN, artifacts.RAW_TEST):
                tensors = artifacts.load_tensors(file)
                content = list(Images.from_tensors(tensors).contents())
                fields = {name: tensors[name] for name in tensors.keys() & {"labels", "contents"}}
                encoded = [encode(Image.fromarray(one.numpy())) for one in content if isinstance(one, Tensor)]
                artifacts.save_images(file, encoded or content, fields)
        monkeypatch.setattr("stages.queries.PACKED_SIDE", side)  # image_size is 16
        prepare()
        text = capsys.readouterr().out
        assert text.count("warning: image_size is 16, but images are stored with at most 8 pixels") == warned
