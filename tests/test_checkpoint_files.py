"""Checkpoints in every kind of file and folder that publishes them: what is read, and what is refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.checkpoints import NAME, original, others, same, without_head
from pipeline.backbone.pretrained import fetch_backbone
from pipeline.errors import UserError


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
