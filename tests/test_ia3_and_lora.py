"""Factors and thin matrices beside frozen weights, against a plain ViT written out here: values, gradients, costs."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.thin_layers import ALPHA, CHOICES, IMAGES, RANK, D, chosen, somewhere, start_of
from harness.tiny import TINY, TINY_CONFIG, random_images, tiny_weights
from pipeline.backbone.build import build_backbone
from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.backbone.vit import Backbone
from pipeline.tuning.kind import find_kind, with_places

H, L, N = 32, 2, 5  # hidden units, blocks and tokens of the tiny ViT


def plain(inputs: Tensor, weights: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> Tensor:
    """The tiny ViT with factors and thin matrices, in plain torch: CLS outputs [B, D]."""

    def norm(x: Tensor, name: str) -> Tensor:
        deviation = (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        y = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        if f"{name}.lora_a" in tuned:
            y = y + ALPHA / RANK * (x @ tuned[f"{name}.lora_a"].T @ tuned[f"{name}.lora_b"].T)
        return y

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = linear(x, f"{name}.qkv").split(D, dim=-1)
        k, v = k * tuned.get(f"{name}.qkv.l_k", 1), v * tuned.get(f"{name}.qkv.l_v", 1)
        heads = []
        for rows in (slice(0, D // 2), slice(D // 2, D)):
            scores = q[..., rows] @ k[..., rows].transpose(1, 2) / (D // 2) ** 0.5
            heads.append(scores.softmax(-1) @ v[..., rows])
        return linear(torch.cat(heads, -1), f"{name}.proj")

    def mlp(x: Tensor, name: str) -> Tensor:
        hidden = functional.gelu(linear(x, f"{name}.fc1"))
        return linear(hidden * tuned.get(f"{name}.fc2.l_ff", 1), f"{name}.fc2")

    patches = functional.conv2d(inputs, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=8)
    x = torch.cat([weights["cls_token"].expand(len(inputs), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + weights["pos_embed"]
    for block in range(L):
        x = x + attention(norm(x, f"blocks.{block}.norm1"), f"blocks.{block}.attn")
        x = x + mlp(norm(x, f"blocks.{block}.norm2"), f"blocks.{block}.mlp")
    return norm(x, "norm")[:, 0]


@pytest.mark.parametrize("choice", CHOICES)
def test_values_and_gradients_are_those_of_a_plain_vit(choice: str, backbone: Backbone) -> None:
    kind, options = chosen(choice)
    placed = with_places(backbone, kind, options)
    inputs = backbone.prepare(random_images(6))
    weights = tiny_weights()
    tuned = {name: tensor.requires_grad_() for name, tensor in somewhere(placed, kind, options).items()}
    target = torch.randn(6, D, generator=torch.Generator().manual_seed(3))
    ours, expected = placed.forward(inputs, tuned), plain(inputs, weights, tuned)
    assert not torch.allclose(ours, placed.forward(inputs, start_of(placed, kind, options)), atol=0.1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad((ours * target).sum(), list(tuned.values()))
    wanted = torch.autograd.grad((expected * target).sum(), list(tuned.values()))
    assert all(gradient.abs().max() > 1e-3 for gradient in wanted)
    for name, gradient, right in zip(tuned, gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, right, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("moved", "dtype"), [(0.1, torch.float32), (1.0, torch.float64)])
@pytest.mark.parametrize("bias", [True, False])
def test_folded_equals_unfolded(choice: str, moved: float, dtype: torch.dtype, bias: bool) -> None:
    tiny: dict[str, Any] = {**TINY, "qkv_bias": bias}
    names = VisionTransformer(**tiny, num_classes=0).state_dict()
    weights = {name: tensor for name, tensor in tiny_weights().items() if name in names}
    config = {**TINY_CONFIG, "architecture": tiny}
    backbone = build_backbone(weights, config, image_size=16, normalize="pretrained", device=torch.device("cpu"))
    backbone.model.to(dtype)
    kind, options = chosen(choice)
    placed = with_places(backbone, kind, options)
    tuned = {name: tensor.to(dtype) for name, tensor in somewhere(placed, kind, options, moved=moved).items()}
    inputs = backbone.prepare(random_images(6)).to(dtype)
    folded, tensors = placed.at_inference(tuned)
    torch.testing.assert_close(folded.forward(inputs, tensors), placed.forward(inputs, tuned), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
def test_at_inference_the_model_as_it_is_runs(choice: str, backbone: Backbone) -> None:
    kind, options = chosen(choice)
    placed = with_places(backbone, kind, options)
    folded, tensors = placed.at_inference(somewhere(placed, kind, options))
    assert folded.model is backbone.model
    assert tensors.keys() < dict(backbone.model.named_parameters()).keys()
    start = start_of(placed, kind, options)
    assert placed.flops(start) == backbone.flops({}), "a pass costs what the frozen one does"
    assert torch.equal(placed.encode(IMAGES, start), backbone.encode(IMAGES, {})), "nothing is rounded at the start"


@pytest.mark.parametrize("choice", CHOICES)
def test_no_weight_is_copied_and_none_has_a_gradient(choice: str, backbone: Backbone) -> None:
    kind, options = chosen(choice)
    placed = with_places(backbone, kind, options)
    own, theirs = (dict(each.model.named_parameters()) for each in (placed, backbone))
    assert own.keys() > theirs.keys()
    assert all(own[name] is parameter for name, parameter in theirs.items())
    tuned = {name: tensor.requires_grad_() for name, tensor in somewhere(placed, kind, options).items()}
    placed.forward(backbone.prepare(random_images(2)), tuned).sum().backward()
    assert all(parameter.grad is None for parameter in own.values())
    assert all(tensor.grad is not None for tensor in tuned.values())


def backward_flops(batch: int, choice: str) -> int:
    """Operations of a backward pass that computes gradients of inputs, and of what is tuned, and of nothing else."""
    tokens = batch * N
    product = {"qkv": D * 3 * D, "proj": D * D, "fc1": D * H, "fc2": H * D}
    attention = 2 * 2 * batch * N * N * D  # scores and their use, a product for each of both factors
    of_inputs = L * (sum(tokens * size for size in product.values()) + attention)
    of_inputs -= tokens * product["qkv"]  # nothing is tuned before the first qkv
    thin = 0
    if choice != "ia3":
        layers = {"qkv": (D, 3 * D)} | ({"fc1": (D, H), "fc2": (H, D)} if "MLPs" in choice else {})
        # B, what B gets, A, and what A gets: but not of the first.
        thin = L * sum(2 * tokens * RANK * (wide_in + wide_out) for wide_in, wide_out in layers.values())
        thin -= tokens * RANK * D
    return 2 * (of_inputs + thin)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_backward_pass_computes_no_gradient_of_a_frozen_weight(choice: str, backbone: Backbone) -> None:
    kind, options = chosen(choice)
    placed = with_places(backbone, kind, options)
    tuned = {name: tensor.requires_grad_() for name, tensor in somewhere(placed, kind, options).items()}

    def counted(frozen: Backbone) -> int:
        with sdpa_kernel(SDPBackend.MATH):
            loss = frozen.forward(backbone.prepare(random_images(7)), tuned).sum()
            with FlopCounterMode(display=False) as counter:
                loss.backward()
        return int(counter.get_total_flops())

    assert counted(placed) == backward_flops(7, choice)
    placed.model.get_parameter("blocks.1.mlp.fc2.weight").requires_grad_()
    assert counted(placed) == backward_flops(7, choice) + 2 * 7 * N * H * D, "one gradient of a weight would be seen"


@pytest.mark.parametrize(
    ("model", "name", "values", "count"),
    [
        ("vit_base_patch16_224", "ia3", {}, 55_296),
        ("vit_tiny_patch16_224", "ia3", {}, 13_824),
        # rank (in + out) of each layer: 4 (768 + 2304) for a qkv; 4 (768 + 3072) for either layer of an MLP
        ("vit_base_patch16_224", "lora", {"rank": 4, "alpha": 4.0, "mlp": False}, 12 * 4 * (768 + 2304)),
        ("vit_base_patch16_224", "lora", {"rank": 4, "alpha": 4.0, "mlp": True}, 12 * 4 * (768 + 2304 + 2 * 3840)),
        ("vit_tiny_patch16_224", "lora", {"rank": 8, "alpha": 4.0, "mlp": False}, 12 * 8 * (192 + 576)),
    ],
)
def test_the_published_numbers_of_parameters(model: str, name: str, values: dict[str, object], count: int) -> None:
    kind = find_kind(name)
    with torch.device("meta"):
        frozen = create_model(model, num_classes=0)
        placed = kind.places(frozen, kind.options(**values))
    new = dict(placed.named_parameters()).keys() - dict(frozen.named_parameters()).keys()
    assert sum(placed.get_parameter(parameter).numel() for parameter in new) == count
