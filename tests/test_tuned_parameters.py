"""Which parameters a task tunes, by name."""

from typing import Any

import pytest
import torch
from torch import nn

from harness.tiny import TINY
from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.errors import UserError
from pipeline.tuning.norms import NormOptions, block_names, norm_parameters

MODEL = VisionTransformer(**TINY | {"depth": 3}, num_classes=0)


def tuned_names(model: VisionTransformer, wanted: str, parameters: str) -> list[str]:
    return norm_parameters(model, NormOptions.model_validate({"norms": wanted, "parameters": parameters}))


def norms(names: list[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("all", {f"blocks.{b}.norm{n}" for b in range(3) for n in (1, 2)} | {"norm"}),
        ("attention", {f"blocks.{b}.norm1" for b in range(3)}),
        ("mlp", {f"blocks.{b}.norm2" for b in range(3)}),
        ("final", {"norm"}),
        ("last_1", {"blocks.2.norm1", "blocks.2.norm2", "norm"}),
        ("last_3", {f"blocks.{b}.norm{n}" for b in range(3) for n in (1, 2)} | {"norm"}),
    ],
)
def test_norms_by_place(wanted: str, expected: set[str]) -> None:
    for parameters, suffixes in (("both", {"weight", "bias"}), ("scale", {"weight"}), ("bias", {"bias"})):
        names = tuned_names(MODEL, wanted, parameters)
        assert norms(names) == expected
        assert {name.rpartition(".")[2] for name in names} == suffixes


def test_query_and_key_norms_belong_to_attention() -> None:
    model = VisionTransformer(**TINY, num_classes=0, qk_norm=True)
    assert "blocks.0.attn.q_norm" in norms(tuned_names(model, "attention", "both"))
    assert "blocks.0.attn.q_norm" not in norms(tuned_names(model, "mlp", "both"))


def test_more_blocks_than_there_are_or_no_such_norm_is_one_line() -> None:
    with pytest.raises(UserError, match="norms is last_9, but the backbone has 3 blocks"):
        tuned_names(MODEL, "last_9", "both")
    without_final = VisionTransformer(**TINY, num_classes=0, final_norm=False)
    with pytest.raises(UserError, match="norms is final, but the backbone has no such LayerNorm"):
        tuned_names(without_final, "final", "both")


SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "num_heads": 2, "depth": 3}
SWIN: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4}
PLAIN = [f"blocks.{number}" for number in range(3)]

# A model, what makes it small, its blocks, the LayerNorms behind the last block, those of its attention and its MLP.
FAMILIES = [
    ("vit_base_patch16_clip_224", SMALL, PLAIN, {"norm"}, {"norm1"}, {"norm2"}),  # norm_pre stands before the blocks
    ("vit_small_patch14_reg4_dinov2", SMALL, PLAIN, {"norm"}, {"norm1"}, {"norm2"}),
    ("vit_base_patch16_siglip_224", SMALL, PLAIN, {"norm", "attn_pool.norm"}, {"norm1"}, {"norm2"}),
    (
        "vit_small_patch16_18x2_224",
        SMALL,
        PLAIN,
        {"norm"},
        {"attns.0.norm", "attns.1.norm"},
        {"ffns.0.norm", "ffns.1.norm"},
    ),
    ("vit_pwee_patch16_reg1_gap_256", SMALL, PLAIN, {"fc_norm"}, {"in_norm"}, {"in_norm"}),
    ("vit_relpos_base_patch16_224", SMALL, PLAIN, {"fc_norm"}, {"norm1"}, {"norm2"}),
    ("deit_tiny_distilled_patch16_224", SMALL, PLAIN, {"norm"}, {"norm1"}, {"norm2"}),
    ("deit3_base_patch16_224", SMALL, PLAIN, {"norm"}, {"norm1"}, {"norm2"}),
    ("beit_base_patch16_224", SMALL, PLAIN, {"fc_norm"}, {"norm1"}, {"norm2"}),
    ("eva02_base_patch16_clip_224", SMALL, PLAIN, {"norm"}, {"norm1", "attn.norm"}, {"norm2", "mlp.norm"}),
    ("vit_pe_core_small_patch16_384", SMALL, PLAIN, {"norm", "attn_pool.norm"}, {"norm1"}, {"norm2"}),
    ("vit_small_patch16_dinov3", SMALL, PLAIN, {"norm"}, {"norm1"}, {"norm2"}),
    *(
        (
            name,
            SWIN,
            [f"{layers}.0.blocks.0", f"{layers}.1.blocks.0", f"{layers}.1.blocks.1"],
            final,
            {"norm1"},
            {"norm2"},
        )
        for name, layers, final in (
            ("swin_tiny_patch4_window7_224", "layers", {"norm"}),
            ("swinv2_tiny_window8_256", "layers", {"norm"}),
            ("swinv2_cr_tiny_ns_224", "stages", set[str]()),
        )
    ),
]


def layernorms_in_order_of_use(model: nn.Module, size: int) -> list[str]:
    """Names of the LayerNorms that a forward pass reaches, each once."""
    used: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: used.append(name) if name not in used else None)
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    ]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return used


@pytest.mark.parametrize(
    ("name", "small", "blocks", "final", "attention", "mlp"), FAMILIES, ids=[f[0] for f in FAMILIES]
)
def test_blocks_are_found_wherever_timm_keeps_them(
    name: str, small: dict[str, Any], blocks: list[str], final: set[str], attention: set[str], mlp: set[str]
) -> None:
    model = create_model(name, num_classes=0, **small)
    assert block_names(model) == blocks
    wanted = {
        which: norms(tuned_names(model, which, "both")) for which in ("all", "attention", "mlp", "last_1", "last_3")
    }
    assert wanted["attention"] == {f"{block}.{norm}" for block in blocks for norm in attention}
    assert wanted["mlp"] == {f"{block}.{norm}" for block in blocks for norm in mlp}
    if final:
        assert norms(tuned_names(model, "final", "both")) == final
    else:
        with pytest.raises(UserError, match="norms is final, but the backbone has no such LayerNorm"):
            tuned_names(model, "final", "both")
    used = layernorms_in_order_of_use(model, small["img_size"])
    assert wanted["all"] == set(used)
    for which, first in (("last_1", blocks[-1]), ("last_3", blocks[0])):
        begin = next(number for number, norm in enumerate(used) if norm.startswith(f"{first}."))
        # What stands between two blocks, as Swin's downsampling, is tuned with what follows.
        assert wanted[which] == set(used[begin:])
    with pytest.raises(UserError, match="norms is last_4, but the backbone has 3 blocks"):
        tuned_names(model, "last_4", "both")


def test_a_norm_of_no_known_half_is_named() -> None:
    model = VisionTransformer(**TINY, num_classes=0)
    model.blocks[0].strange_norm = nn.LayerNorm(4)
    with pytest.raises(UserError, match=r"mlp, but it is unknown to which half .*'s blocks\.0\.strange_norm belongs"):
        tuned_names(model, "mlp", "both")
    assert "blocks.0.strange_norm" in norms(tuned_names(model, "all", "both"))
