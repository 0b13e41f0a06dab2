"""Every preset: its keys are valid, its parts fit together, its data set and its backbone exist."""

import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import run_stage
from harness.tiny import pretrained_layernorms, random_images
from pipeline.__main__ import app
from pipeline.backbone.build import build_backbone
from pipeline.backbone.pretrained import EMBEDDED, PRETRAINED, missing_weights
from pipeline.backbone.timm_vit import create_model
from pipeline.data.datasets import DATASETS, check_domains, missing_files
from pipeline.data.images import Images
from pipeline.params import PARAMS_FILE, known_keys, read_mapping
from pipeline.store import artifacts

PRESETS = sorted(
    file.relative_to(ROOT / "presets").with_suffix("").as_posix() for file in ROOT.glob("presets/**/*.yaml")
)
LARGEST = "vit_large"  # its whole definition is made without memory, and no block of it is run


def given(name: str) -> dict[str, object]:
    return dict(read_mapping(ROOT / f"presets/{name}.yaml"))


BACKBONES = sorted({str(given(name)["backbone"]) for name in PRESETS if "backbone" in given(name)} - EMBEDDED.keys())


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_applied_and_its_parts_fit(name: str) -> None:
    shutil.copy(ROOT / "params.yaml", ".")
    shutil.copytree(ROOT / "presets", "presets")
    assert given(name).keys() <= known_keys()
    assert CliRunner().invoke(app, ["preset", name, "--yes"]).exit_code == 0
    params = read_mapping(PARAMS_FILE)
    assert len(params["tasks"]) >= params["num_tasks"]
    run_stage("method")
    assert artifacts.load_json(artifacts.METHOD)["tuning"] == params["tuning"]
    if params["setting"] == "domain":
        check_domains(params["dataset"])
    assert params["dataset"] in (*DATASETS, "image_folder")
    missing_files(params["dataset"])  # it is known


OF_METHODS = [name for name in PRESETS if name.startswith("methods/")]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("name", OF_METHODS)
def test_a_published_method_takes_nothing_over_from_what_was_set_before(name: str) -> None:
    """Least of all the four blocks of `best`: they would run silently, or fail after the longest stage."""
    shutil.copy(ROOT / "params.yaml", ".")
    shutil.copytree(ROOT / "presets", "presets")
    depends = {"features", "classifier", "classifier_init", "classifier_views", "correction", "training", "selection"}
    assert depends <= given(name).keys()
    assert given(name)["features"] == "cls"
    before = [{"features": "cls_4", "classifier_views": 4, "correction": "rematch", "average_scale": 0.5}]
    before += [{"classifier_init": "auxiliary", "tuned_tasks": "first", "training": "single_stage"}]
    for changes in before:
        set_params(PARAMS_FILE, **changes)
        assert CliRunner().invoke(app, ["preset", name, "--yes"]).exit_code == 0
        params = read_mapping(PARAMS_FILE)
        assert {key: params[key] for key in depends} == {key: given(name)[key] for key in depends}
        run_stage("method")


@pytest.mark.parametrize("name", [name for name in PRESETS if "num_tasks" in given(name)])
def test_a_preset_of_a_data_set_leaves_nothing_to_the_one_before(name: str) -> None:
    """Whatever was applied before, the values are those of the file: all of glyphs', but for options of other parts."""
    options = {"softmax", "lda", "layernorm"}
    assert given(name).keys() - options == given("glyphs").keys() - options
    assert {given(name)["classifier"], given(name)["tuning"]} <= given(name).keys()


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("methods/")])
def test_a_preset_says_which_numbers_are_published_measured_or_estimated(name: str) -> None:
    head = (ROOT / f"presets/{name}.yaml").read_text().partition("\n" + next(iter(given(name))) + ":")[0]
    assert re.search(r"[Mm]easured|[Ee]stimated|[Pp]ublished|[Aa]verage accuracy", head), head


@pytest.mark.parametrize("name", BACKBONES)
def test_the_backbone_of_a_preset_can_be_built_and_tuned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of timm's own definition, without weights: one block of it, at two patches a side; the largest only by name."""
    monkeypatch.setattr("pipeline.backbone.timm_weights.try_to_load_from_cache", lambda *_: None)
    (weights,) = missing_weights(name, PRETRAINED)
    assert weights.url.endswith((".safetensors", ".bin"))
    if name.startswith(LARGEST):
        return
    model = create_model(name, pretrained=False, num_classes=0, depth=1)
    monkeypatch.setattr("pipeline.backbone.build.create_model", lambda *_, **__: model)
    size = 2 * model.patch_embed.patch_size[0]
    cfg = model.pretrained_cfg
    config = {"timm": name, "mean": list(cfg["mean"]), "std": list(cfg["std"])}
    backbone = build_backbone(
        model.state_dict(), config, image_size=size, normalize="pretrained", device=torch.device("cpu")
    )
    tuned = pretrained_layernorms(backbone)
    outputs = backbone.encode(Images.of_pixels(random_images(2, size=size)), tuned)
    assert outputs.shape == (2, model.num_features)
    assert bool(outputs.isfinite().all())
    prefix = 1 + getattr(model, "num_reg_tokens", 0)
    assert model.num_prefix_tokens == prefix
    assert prefix == (5 if "reg4" in name else 1)


def test_image_sizes_of_presets_are_whole_patches() -> None:
    for name in PRESETS:
        backbone, size = given(name).get("backbone"), given(name).get("image_size")
        if backbone in BACKBONES:
            patch = re.search(r"patch(\d+)", str(backbone))
            assert patch, backbone
            assert isinstance(size, int), name
            assert size % int(patch[1]) == 0, name
