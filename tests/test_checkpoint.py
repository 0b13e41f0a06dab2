"""Checkpoints from the models' authors are read the way timm reads them; those of other models are refused."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from harness.checkpoints import NAME, State, original, others, same, without_head
from harness.tiny import random_images
from pipeline.backbone.build import build_backbone
from pipeline.backbone.pretrained import fetch_backbone
from pipeline.backbone.timm_vit import create_model, create_with_filter
from pipeline.data.images import Images
from pipeline.errors import UserError


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def chunked(state: Mapping[str, Tensor]) -> State:
    """Blocks in two chunks, numbered through, as DINOv2 trains them."""
    return {
        f"blocks.{int(name.split('.')[1]) // 3}.{name.removeprefix('blocks.')}"
        if name.startswith("blocks.")
        else name: tensor
        for name, tensor in state.items()
    }


DRESSED: dict[str, Callable[[State], object]] = {
    "as it is": dict,
    "DINOv2, mask token": lambda state: without_head(state) | {"mask_token": torch.zeros(1, 64)},
    "in21k, pre_logits": lambda state: (
        state | {"pre_logits.fc.weight": torch.zeros(64, 64), "pre_logits.fc.bias": torch.zeros(64)}
    ),
    "MAE, decoder": lambda state: {
        "model": without_head(state)
        | {
            "mask_token": torch.zeros(1, 1, 8),
            "decoder_pos_embed": torch.zeros(1, 101, 8),
            "decoder_norm.bias": torch.ones(8),
        }
    },
    "timm's trainer": lambda state: {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": others(state),
        "state_dict_ema": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "DeiT, model_ema": lambda state: {"model": others(state), "model_ema": state},
    "DistributedDataParallel": lambda state: {"state_dict": under("module.", state)},
    "torch.compile": lambda state: under("_orig_mod.", state),
    "Lightning": lambda state: {"state_dict": under("model.backbone.", state), "hyper_parameters": {"lr": 0.1}},
    "DINO, student and teacher": lambda state: {
        "student": under("module.backbone.", others(state)) | {"module.head.mlp.0.weight": torch.zeros(2, 2)},
        "teacher": under("backbone.", without_head(state)) | {"head.mlp.0.weight": torch.zeros(2, 2)},
    },
    "DINOv2's trainer": lambda state: {
        "teacher": under("backbone.", chunked(state)) | {"dino_head.last.bias": torch.ones(3)}
    },
    "MoCo v3": lambda state: {
        "state_dict": under("module.base_encoder.", state) | under("module.momentum_encoder.", others(state))
    },
    "OpenCLIP": lambda state: under("visual.trunk.", without_head(state)) | {"text.weight": torch.zeros(2, 2)},
    "I-JEPA": lambda state: {
        "encoder": under("module.", without_head(state)),
        "target_encoder": under("module.", others(state)),
    },
}


@pytest.mark.parametrize("dress", DRESSED.values(), ids=DRESSED)
def test_the_model_is_found_wherever_a_checkpoint_keeps_it(dress: Callable[[State], object], tmp_path: Path) -> None:
    state = original()
    torch.save(dress(state), tmp_path / "file.pth")
    weights, config = fetch_backbone(NAME, tmp_path / "file.pth")
    assert same(weights, without_head(state))
    assert "arguments" not in config


@pytest.mark.parametrize("image_size", [96, 64, 160])
def test_weights_for_another_image_size_are_resampled_once_as_timm_does(image_size: int, tmp_path: Path) -> None:
    state = original(img_size=96)
    torch.save(state, tmp_path / "at_96.pth")
    weights, config = fetch_backbone(NAME, tmp_path / "at_96.pth")
    backbone = build_backbone(weights, config, image_size=image_size, normalize="none", device=torch.device("cpu"))
    plain, read_as_timm = create_with_filter(NAME, num_classes=0, img_size=image_size)
    plain.load_state_dict(read_as_timm(without_head(state)))
    images = Images.of_pixels(random_images(2, size=image_size))
    with torch.inference_mode():
        assert torch.equal(backbone.encode(images, {}), plain.eval()(backbone.prepare(images.data)))


def test_register_tokens_of_the_original_dinov2_become_timms(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    state = original(name, img_size=28)
    published = without_head(state)
    published["register_tokens"] = published.pop("reg_token")
    published["mask_token"] = torch.zeros(1, 384)
    # There, the class token has a position, and the file is made for another image size.
    of_class = torch.full((1, 1, 384), 0.25)
    published["pos_embed"] = torch.cat([of_class, published["pos_embed"]], dim=1)
    torch.save(published, tmp_path / "dinov2.pth")
    weights, config = fetch_backbone(name, tmp_path / "dinov2.pth")
    assert config["arguments"] == {"img_size": 28}
    assert same(weights, without_head(state) | {"cls_token": state["cls_token"] + of_class})


@pytest.mark.parametrize(("name", "pool"), [(NAME, "avg"), ("eva_large_patch14_196", "token")])
def test_the_norm_of_a_file_says_how_the_model_pools(
    name: str, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases: MAE's fine-tuned models, which have fc_norm, and pretrained weights of models that timm fine-tuned."""
    if name != NAME:
        make_small(monkeypatch, depth=1, embed_dim=32, num_heads=2)
    state = original(name, global_pool=pool, **({} if name == NAME else {"depth": 1, "embed_dim": 32, "num_heads": 2}))
    torch.save({"model": state}, tmp_path / "file.pth")
    weights, config = fetch_backbone(name, tmp_path / "file.pth")
    assert config["arguments"] == {"global_pool": pool}
    assert same(weights, without_head(state))
    backbone = build_backbone(
        weights,
        config
        if name == NAME
        else config | {"arguments": {"global_pool": pool, "depth": 1, "embed_dim": 32, "num_heads": 2}},
        image_size=28 if "patch14" in name else 32,
        normalize="none",
        device=torch.device("cpu"),
    )
    assert backbone.encode(Images.of_pixels(random_images(2)), {}).shape == (2, backbone.model.num_features)


def make_small(monkeypatch: pytest.MonkeyPatch, **small: Any) -> None:  # noqa: ANN401
    """Make timm build small models."""
    from pipeline.backbone import checkpoint, timm_weights  # noqa: PLC0415

    monkeypatch.setattr(timm_weights, "create_model", lambda name, **given: create_model(name, **given, **small))
    monkeypatch.setattr(
        checkpoint, "create_with_filter", lambda name, **given: create_with_filter(name, **given, **small)
    )


WRONG = [  # what is in the file, what is asked for, and what is said
    ("vit_small_patch14_reg4_dinov2", "vit_small_patch14_dinov2", r"1 unexpected: reg_token"),
    ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", r"1 missing: reg_token"),
    ("deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", r"dist_token"),
    ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", r"missing: dist_token"),
    (
        "vit_small_patch32_224",
        "vit_small_patch16_224",
        r"patch_embed\.proj\.weight \[384, 3, 32, 32\] for \[384, 3, 16, 16\]",
    ),
    ("vit_tiny_patch16_224", "vit_small_patch16_224", r"of another shape"),
    ("test_vit2", NAME, r"missing"),
    ("beit_base_patch16_224", "vit_base_patch16_224", r"missing"),
    ("eva02_tiny_patch14_224", "vit_tiny_patch16_224", r"of another shape"),
    ("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", r"of another shape"),
    ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", r"of another shape"),
    ("resnet18", NAME, r"missing"),
]


@pytest.mark.parametrize(("content", "name", "what"), WRONG, ids=[f"{given} for {asked}" for given, asked, _ in WRONG])
def test_weights_of_another_model_are_refused_in_one_line(content: str, name: str, what: str, tmp_path: Path) -> None:
    torch.save(create_model(content, num_classes=0).state_dict(), tmp_path / "file.pth")
    with pytest.raises(UserError, match=rf"file\.pth does not fit backbone '{name}' \(.*{what}.*\): choose the model"):
        fetch_backbone(name, tmp_path / "file.pth")


def test_more_or_fewer_blocks_are_refused(tmp_path: Path) -> None:
    for depth, what in ((5, "12 missing: blocks.5"), (7, "12 unexpected: blocks.6")):
        torch.save(original(depth=depth), tmp_path / "file.pth")
        with pytest.raises(UserError, match=what):
            fetch_backbone(NAME, tmp_path / "file.pth")


def test_tied_tensors_are_each_kept(tmp_path: Path) -> None:
    model: nn.Module = create_model(NAME, num_classes=0)
    model.blocks[1].norm1.bias = model.blocks[0].norm1.bias  # type: ignore[index, union-attr]
    state = model.state_dict()
    torch.save(state, tmp_path / "tied.pth")
    save_model(model, str(tmp_path / "tied.safetensors"))  # keeps one of the two, and the other's name
    for file in ("tied.pth", "tied.safetensors"):
        weights, _ = fetch_backbone(NAME, tmp_path / file)
        assert same(weights, state)
        save_file(weights, tmp_path / "again.safetensors")  # which refuses tensors that share memory


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float64]
)
def test_floats_of_any_width_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in without_head(original()).items()}
    torch.save(state, tmp_path / "file.pth")
    weights, config = fetch_backbone(NAME, tmp_path / "file.pth")
    assert all(torch.equal(weights[name].float(), tensor.float()) for name, tensor in state.items())
    build_backbone(weights, config, image_size=32, normalize="none", device=torch.device("cpu"))
    state["norm.bias"] = torch.full((64,), float("nan")).to(dtype)
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"norm\.bias has values that are not finite"):
        fetch_backbone(NAME, tmp_path / "file.pth")
