"""Tuned passes equal those of a plain timm model with the same LayerNorms; weights that do not fit are named."""

import pytest
import torch
from torch import nn

from harness.tiny import TINY, TINY_CONFIG, pretrained_layernorms, random_images, tiny_weights
from pipeline.backbone.build import build_backbone
from pipeline.backbone.timm_vit import VisionTransformer
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.errors import UserError

CPU = torch.device("cpu")


def plain_model(weights: dict[str, torch.Tensor]) -> VisionTransformer:
    """timm's own model, nothing of ours in it."""
    model = VisionTransformer(**TINY, num_classes=0).eval()
    model.load_state_dict(weights)
    return model


def other_layernorms(backbone: Backbone) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: t + 0.3 * torch.randn(t.shape, generator=generator) for name, t in pretrained_layernorms(backbone).items()
    }


def test_tuned_pass_equals_plain_timm_bit_for_bit(backbone: Backbone) -> None:
    layernorms = other_layernorms(backbone)
    images = Images.of_pixels(random_images(7))
    inputs = (images.data.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = plain_model(tiny_weights() | layernorms)(inputs)
    assert torch.equal(backbone.encode(images, layernorms), expected)
    assert not torch.equal(backbone.encode(images, pretrained_layernorms(backbone)), expected)


def test_query_pass_equals_plain_timm_and_tuned_passes_leave_no_trace(backbone: Backbone) -> None:
    images = Images.of_pixels(random_images(3))
    before = backbone.encode(images, pretrained_layernorms(backbone))
    backbone.encode(images, other_layernorms(backbone))
    with torch.inference_mode():
        assert torch.equal(before, plain_model(tiny_weights())(backbone.prepare(images.data)))
    assert torch.equal(backbone.encode(images, pretrained_layernorms(backbone)), before)


def test_layernorms_are_all_and_only_those_of_the_model(backbone: Backbone) -> None:
    modules = [module for module in backbone.model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(modules) == 2 * TINY["depth"] + 1
    assert set(pretrained_layernorms(backbone)) == {
        f"{module}.{name}"
        for module in ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"]
        for name in ["weight", "bias"]
    }
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_a_batch_gives_what_its_parts_give(backbone: Backbone) -> None:
    images = Images.of_pixels(random_images(600))  # more than one inference batch
    whole = backbone.encode(images, pretrained_layernorms(backbone))
    parts = [
        backbone.encode(part, pretrained_layernorms(backbone))
        for part in (images[rows] for rows in torch.arange(600).split(100))
    ]
    torch.testing.assert_close(whole, torch.cat(parts))
    assert backbone.encode(images[:0], pretrained_layernorms(backbone)).shape == (0, TINY["embed_dim"])


def test_images_are_resized_to_the_input_size(backbone: Backbone) -> None:
    grey = torch.full((2, 40, 30, 3), 128, dtype=torch.uint8)
    prepared = backbone.prepare(grey)
    assert prepared.shape == (2, 3, 16, 16)
    torch.testing.assert_close(prepared, torch.full_like(prepared, (128 / 255 - 0.5) / 0.5))


def test_another_image_size_resamples_the_position_embeddings() -> None:
    larger = build_backbone(tiny_weights(), TINY_CONFIG, image_size=32, normalize="pretrained", device=CPU)
    assert larger.encode(Images.of_pixels(random_images(2, size=32)), pretrained_layernorms(larger)).shape == (
        2,
        TINY["embed_dim"],
    )
    with pytest.raises(UserError, match="image_size must be a multiple of the backbone's patch size 8, found 20"):
        build_backbone(tiny_weights(), TINY_CONFIG, image_size=20, normalize="pretrained", device=CPU)


def test_weights_that_do_not_fit_are_named() -> None:
    weights = tiny_weights()
    del weights["norm.bias"]
    with pytest.raises(UserError, match=r"weights do not fit.*norm\.bias") as raised:
        build_backbone(weights, TINY_CONFIG, image_size=16, normalize="pretrained", device=CPU)
    assert "\n" not in str(raised.value)


def test_flops_are_those_of_the_matrix_products(backbone: Backbone) -> None:
    tokens, dim, hidden = 5, 16, 32
    linear = tokens * dim * (3 * dim + dim + 2 * hidden)
    attention = 2 * tokens * tokens * dim
    patches = 4 * dim * 3 * 8 * 8
    assert backbone.flops({}) == 2 * (TINY["depth"] * (linear + attention) + patches)


def test_without_normalization_the_model_sees_plain_values(backbone: Backbone) -> None:
    plain = build_backbone(tiny_weights(), TINY_CONFIG, image_size=16, normalize="none", device=CPU)
    images = random_images(4)
    assert torch.equal(plain.prepare(images), images.permute(0, 3, 1, 2) / 255)
    assert torch.allclose(backbone.prepare(images), plain.prepare(images) * 2 - 1, atol=1e-6)


def test_matrix_products_in_bfloat16_change_features_little_and_gradients_stay_float32(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION", "bf16")
    half = build_backbone(tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=CPU)
    inputs = backbone.prepare(random_images(8))
    layernorms = {name: tensor.requires_grad_() for name, tensor in other_layernorms(backbone).items()}
    exact, rounded = backbone.forward(inputs, layernorms), half.forward(inputs, layernorms)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.02 * exact.norm()
    gradients = torch.autograd.grad(rounded.square().sum(), list(layernorms.values()))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_an_unknown_precision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECISION", "fp8")
    with pytest.raises(UserError, match="PRECISION='fp8' is unknown: unset it, or choose one of fp32, bf16"):
        build_backbone(tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=CPU)
