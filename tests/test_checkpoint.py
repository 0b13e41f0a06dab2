"""Checkpoints from the models' authors are read the way timm reads them; those of other models are refused."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from harness.tiny import random_images
from pipeline.backbone.build import build_backbone
from pipeline.backbone.pretrained import fetch_backbone
from pipeline.backbone.timm_vit import create_model, create_with_filter
from pipeline.data.images import Images
from pipeline.errors import UserError

NAME = "test_vit"  # timm's smallest: patches of 16, 160 pixels
State = dict[str, Tensor]


def original(name: str = NAME, **arguments: Any) -> State:  # noqa: ANN401
    """Weights of a model with its head."""
    torch.manual_seed(1)
    state: State = create_model(name, num_classes=5, **arguments).state_dict()
    return state


def without_head(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("head")}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def others(state: Mapping[str, Tensor]) -> State:
    """The same names with other values."""
    return {name: tensor + 1 for name, tensor in state.items()}


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


def test_what_a_file_is_tells_its_content(tmp_path: Path) -> None:
    state = without_head(original())
    save_file(state, tmp_path / "safetensors.pth")
    torch.save(state, tmp_path / "pickle.safetensors")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("safetensors.pth", "pickle.safetensors", "old.bin"):
        assert same(fetch_backbone(NAME, tmp_path / name)[0], state)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a Git LFS pointer.*`git lfs pull`",
        ),
        (b"<!DOCTYPE html><html>", "is a web page: download the file itself"),
        (b"\n<HTML lang='en'>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n0000", "is an HDF5 file"),
        (b"\x1f\x8b\x08\x00", "is compressed"),
        (b"", "is not a weight file: it is empty"),
        (b"no weights", "is not a weight file"),
        (b"PK\x03\x04 cut", "is not a weight file"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_of_another_kind_are_named(content: bytes, what: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"file.{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=rf"file\.{suffix} {what}"):
        fetch_backbone(NAME, tmp_path / f"file.{suffix}")


def config_of(architecture: str) -> str:
    return json.dumps({"architecture": architecture, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4] * 3}})


def test_a_folder_of_a_hub_snapshot_is_read(tmp_path: Path) -> None:
    state = without_head(original())
    folder = tmp_path / "models--timm--test_vit" / "snapshots" / "abc123"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_of(NAME))
    torch.save(others(state), folder / "pytorch_model.bin")
    save_file(state, folder / "model.safetensors")
    for path in (folder, tmp_path / "models--timm--test_vit"):
        weights, config = fetch_backbone(NAME, path)
        assert same(weights, state)
        assert (config["mean"], config["std"]) == ([0.1, 0.2, 0.3], [0.4] * 3)  # as this folder's weights expect it
    (folder / "model.safetensors").unlink()
    assert same(fetch_backbone(NAME, folder)[0], others(state))


def test_a_snapshot_in_several_files_is_read(tmp_path: Path) -> None:
    state = without_head(original())
    names = sorted(state)
    shards = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for shard, part in shards.items():
        save_file({name: state[name] for name in part}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(fetch_backbone(NAME, tmp_path)[0], state)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"index\.json names b\.safetensors: download the whole snapshot again"):
        fetch_backbone(NAME, tmp_path)


def test_folders_that_do_not_serve_say_why(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no weights: name one file in backbone_weights, such as .*model\.safetensors"
    ):
        fetch_backbone(NAME, tmp_path)
    for file in ("a.pth", "b.pth"):
        torch.save(original(), tmp_path / file)
    with pytest.raises(UserError, match=r"holds several files of weights \(a\.pth, b\.pth"):
        fetch_backbone(NAME, tmp_path)
    (tmp_path / "b.pth").unlink()
    (tmp_path / "config.json").write_text(config_of("vit_tiny_patch16_224"))
    with pytest.raises(
        UserError, match=r"holds vit_tiny_patch16_224, not 'test_vit': set backbone to vit_tiny_patch16"
    ):
        fetch_backbone(NAME, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "architectures": ["Dinov2Model"]}))
    with pytest.raises(UserError, match=r"holds a model of the transformers library \(dinov2\)"):
        fetch_backbone(NAME, tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json is not a JSON object"):
        fetch_backbone(NAME, tmp_path)


def as_google_publishes(state: Mapping[str, Tensor], heads: int) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of JAX's ViT: kernels transposed, queries, keys and values apart, a dimension for the heads."""
    values = {name: tensor.numpy() for name, tensor in state.items()}
    width = values["cls_token"].shape[-1]
    arrays = {
        "cls": values["cls_token"],
        "embedding/kernel": values["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": values["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": values["pos_embed"],
        "Transformer/encoder_norm/scale": values["norm.weight"],
        "Transformer/encoder_norm/bias": values["norm.bias"],
        "head/kernel": np.zeros((width, 7), np.float32),
        "pre_logits/kernel": np.zeros((width, width), np.float32),
    }
    for block in range(sum(name.endswith("norm1.bias") for name in values)):
        there, here = f"Transformer/encoderblock_{block}/", f"blocks.{block}."
        for norm, number in (("norm1", 0), ("norm2", 2)):
            arrays[f"{there}LayerNorm_{number}/scale"] = values[f"{here}{norm}.weight"]
            arrays[f"{there}LayerNorm_{number}/bias"] = values[f"{here}{norm}.bias"]
        attention = f"{there}MultiHeadDotProductAttention_1/"
        kernels, biases = np.split(values[f"{here}attn.qkv.weight"], 3), np.split(values[f"{here}attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            arrays[f"{attention}{part}/kernel"] = kernel.T.reshape(width, heads, -1)
            arrays[f"{attention}{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = values[f"{here}attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = values[f"{here}attn.proj.bias"]
        for number in (0, 1):
            arrays[f"{there}MlpBlock_3/Dense_{number}/kernel"] = values[f"{here}mlp.fc{number + 1}.weight"].T
            arrays[f"{there}MlpBlock_3/Dense_{number}/bias"] = values[f"{here}mlp.fc{number + 1}.bias"]
    return arrays


def test_an_archive_of_jax_is_read(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    state = original(name)
    np.savez(tmp_path / "Ti_16.npz", **as_google_publishes(state, heads=3))  # type: ignore[arg-type]
    assert same(fetch_backbone(name, tmp_path / "Ti_16.npz")[0], without_head(state))
    for other in ("vit_small_patch16_224", "deit_tiny_distilled_patch16_224"):
        with pytest.raises(UserError, match=rf"Ti_16\.npz does not fit backbone '{other}'"):
            fetch_backbone(other, tmp_path / "Ti_16.npz")
    deeper = original(name, depth=13)
    np.savez(tmp_path / "deeper.npz", **as_google_publishes(deeper, heads=3))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"deeper\.npz does not fit .* values, the model "):
        fetch_backbone(name, tmp_path / "deeper.npz")
