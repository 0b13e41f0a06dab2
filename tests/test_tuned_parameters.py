"""Which parameters a task tunes, by name."""

import pytest
from tiny import TINY

from pipeline.errors import UserError
from pipeline.timm_vit import VisionTransformer
from pipeline.tuned_parameters import tuned_names

MODEL = VisionTransformer(**TINY | {"depth": 3}, num_classes=0)


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
        names = tuned_names(MODEL, "layernorm", wanted, parameters)  # type: ignore[arg-type]
        assert norms(names) == expected
        assert {name.rpartition(".")[2] for name in names} == suffixes


def test_query_and_key_norms_belong_to_attention() -> None:
    model = VisionTransformer(**TINY, num_classes=0, qk_norm=True)
    assert "blocks.0.attn.q_norm" in norms(tuned_names(model, "layernorm", "attention", "both"))
    assert "blocks.0.attn.q_norm" not in norms(tuned_names(model, "layernorm", "mlp", "both"))


def test_nothing_or_everything() -> None:
    assert tuned_names(MODEL, "none", "all", "both") == []
    assert tuned_names(MODEL, "full", "final", "scale") == [name for name, _ in MODEL.named_parameters()]


def test_more_blocks_than_there_are_or_no_such_norm_is_one_line() -> None:
    with pytest.raises(UserError, match="tuned_norms is last_9, but the backbone has 3 blocks"):
        tuned_names(MODEL, "layernorm", "last_9", "both")
    without_final = VisionTransformer(**TINY, num_classes=0, final_norm=False)
    with pytest.raises(UserError, match="tuned_norms is final, but the backbone has no such LayerNorm"):
        tuned_names(without_final, "layernorm", "final", "both")
