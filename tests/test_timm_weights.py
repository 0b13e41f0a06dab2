"""timm models as backbones: local files, what does not fit, what cannot be tuned."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.tiny import pretrained_layernorms, random_images
from pipeline.backbone import timm_weights
from pipeline.backbone.build import build_backbone
from pipeline.backbone.pretrained import PRETRAINED, fetch_backbone, missing_weights
from pipeline.backbone.timm_vit import create_model
from pipeline.data.images import Images
from pipeline.errors import UserError

NAME = "vit_tiny_patch16_224"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a whole model, with the head of another task."""
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(create_model(NAME, num_classes=7).state_dict(), file)
    return file


def test_a_local_file_gives_the_model_that_it_holds(file: Path, tmp_path: Path) -> None:
    weights, config = fetch_backbone(NAME, file)
    assert config == {"timm": NAME, "mean": [0.5] * 3, "std": [0.5] * 3}
    backbone = build_backbone(weights, config, image_size=32, normalize="pretrained", device=CPU)
    assert backbone.encode(Images.of_pixels(random_images(2, size=32)), pretrained_layernorms(backbone)).shape == (
        2,
        192,
    )
    torch.save({"model": dict(weights)}, tmp_path / "vit.pth")
    from_pth, _ = fetch_backbone(NAME, tmp_path / "vit.pth")
    assert all(torch.equal(from_pth[name], tensor) for name, tensor in weights.items())


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, where BEiT resamples relative positions
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_small_patch14_dinov2", "beit_base_patch16_224"])
def test_other_families_run_with_layernorms_in_place_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(name, num_classes=0, depth=1)
    monkeypatch.setattr("pipeline.backbone.build.create_model", lambda *_, **__: model)
    size = 2 * model.patch_embed.patch_size[0]
    config = {"timm": name, "mean": [0.5] * 3, "std": [0.5] * 3}
    backbone = build_backbone(model.state_dict(), config, image_size=size, normalize="pretrained", device=CPU)
    images = Images.of_pixels(random_images(2, size=size))
    outputs = backbone.encode(images, pretrained_layernorms(backbone))
    assert outputs.shape == (2, model.num_features)
    changed = {layernorm: 1.5 * tensor + 0.1 for layernorm, tensor in pretrained_layernorms(backbone).items()}
    assert not torch.allclose(backbone.encode(images, changed), outputs)


def test_what_does_not_fit_is_said_in_one_line(file: Path, tmp_path: Path) -> None:
    weights, _ = fetch_backbone(NAME, file)
    del weights["norm.bias"]
    save_file(weights | {"extra": torch.zeros(1), "cls_token": torch.zeros(1, 1, 3)}, tmp_path / "other.safetensors")
    expected = (
        rf"other.safetensors does not fit backbone '{NAME}' \(1 missing: norm.bias; 1 unexpected: extra; "
        r"1 of another shape: cls_token \[1, 1, 3\] for \[1, 1, 192\]\): choose the model"
    )
    with pytest.raises(UserError, match=expected):
        fetch_backbone(NAME, tmp_path / "other.safetensors")


class Code:
    """Runs when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        """Leave a trace."""
        return Path.touch, (Path("trace"),)


def test_files_that_are_no_weights_are_refused_and_no_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("code.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    torch.save({"model": Code()}, "hidden.pth")
    Path("bad.safetensors").write_bytes(b"nothing")
    torch.save([1, 2], "list.pth")
    for name in ("code.pth", "hidden.pth", "bad.safetensors", "list.pth", "missing.pth"):
        with pytest.raises(UserError, match=rf"{name} (holds more|is no|does not exist)") as raised:
            fetch_backbone(NAME, Path(name))
        assert "\n" not in str(raised.value)
    assert not Path("trace").exists()


def test_models_that_cannot_be_tuned_or_fetched_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="backbone 'vit_tiny_patch16_24' is unknown: did you mean vit_tiny_patch16_224"):
        fetch_backbone("vit_tiny_patch16_24", PRETRAINED)
    with pytest.raises(UserError, match="'resnet18' is not a Vision Transformer with LayerNorms"):
        fetch_backbone("resnet18", tmp_path / "any")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no connection\nmore")

    monkeypatch.setattr(timm_weights, "create_model", offline)
    with pytest.raises(UserError, match=r"weights of vit_tiny_patch16_224 cannot be fetched from the hub \(no conn"):
        fetch_backbone(NAME, PRETRAINED)


def test_weights_that_the_hub_is_to_send_are_named_unless_they_are_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(timm_weights, "try_to_load_from_cache", lambda *_: None)
    (file,) = missing_weights("vit_base_patch16_224.augreg_in21k_ft_in1k", PRETRAINED)
    assert file.url.endswith("/timm/vit_base_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors")
    assert file.megabytes == pytest.approx(343, abs=1)
    assert "backbone_weights" in file.place
    assert missing_weights("glyph_vit", PRETRAINED) == missing_weights(NAME, tmp_path / "file.pth") == []
    monkeypatch.setattr(timm_weights, "try_to_load_from_cache", lambda *_: str(tmp_path))
    assert missing_weights(NAME, PRETRAINED) == []
    with pytest.raises(UserError, match="did you mean vit_tiny_patch16_224"):
        missing_weights("vit_tiny_patch16_24", PRETRAINED)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("levit_128", r"is not a Vision Transformer with LayerNorms \(its norms: BatchNorm"),
        ("vit_base_patch16_xp_224", r"is not a Vision Transformer with LayerNorms \(its norms: .*RmsNorm"),
        ("cait_xxs24_224", "cannot be used: timm's Cait has no set_input_size"),
        ("hiera_tiny_224", "cannot be used: timm's Hiera has no set_input_size"),
        ("xcit_nano_12_p16_224", "cannot be used: timm's Xcit has no set_input_size"),
    ],
)
def test_models_of_other_families_are_refused_by_name_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"backbone '{name}' {reason}"):
        fetch_backbone(name, tmp_path / "any")
