"""Factors and thin matrices beside frozen weights, against a plain ViT written out here: values, gradients, costs."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.tiny import TINY, TINY_CONFIG, random_images, tiny_weights
from pipeline.backbone.build import build_backbone
from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.inference.features import encode_inputs, encode_selected
from pipeline.inference.method import Method
from pipeline.params import Record
from pipeline.progress import Progress
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.selector import find_selector
from pipeline.tuning.kind import Kind, find_kind, with_places
from pipeline.tuning.kinds import lora
from pipeline.tuning.kinds.lora import Options

IMAGES = Images.of_pixels(random_images(6))
D, H, L, N = 16, 32, 2, 5  # width, hidden units, blocks and tokens of the tiny ViT
RANK, ALPHA = 3, 2.0
CHOICES: dict[str, tuple[str, dict[str, object]]] = {
    "ia3": ("ia3", {}),
    "lora": ("lora", {"rank": RANK, "alpha": ALPHA, "mlp": False}),
    "lora of MLPs too": ("lora", {"rank": RANK, "alpha": ALPHA, "mlp": True}),
}


def chosen(choice: str) -> tuple[Kind, Record]:
    """A kind and its options."""
    name, values = CHOICES[choice]
    kind = find_kind(name)
    return kind, kind.options(**values)


def start_of(placed: Backbone, kind: Kind, options: Record, seed: int = 0) -> Tuned:
    return kind.start(placed, options, {}, IMAGES, torch.Generator().manual_seed(seed))


def somewhere(placed: Backbone, kind: Kind, options: Record, seed: int = 1, moved: float = 0.3) -> Tuned:
    """Tensors as after some training: the start, moved at random."""
    random = torch.Generator().manual_seed(seed)
    start = start_of(placed, kind, options)
    return {name: tensor + moved * torch.randn(tensor.shape, generator=random) for name, tensor in start.items()}


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


def bank_of(placed: Backbone, kind: Kind, options: Record, tasks: int) -> dict[str, Tensor]:
    of_task = [somewhere(placed, kind, options, seed) for seed in range(tasks)]
    return {name: torch.stack([tuned[name] for tuned in of_task]) for name in of_task[0]}


@pytest.mark.parametrize("choice", CHOICES)
def test_images_go_by_task_and_each_gets_its_own_model(choice: str, backbone: Backbone) -> None:
    kind, options = chosen(choice)
    placed = with_places(backbone, kind, options)
    bank, tasks = bank_of(placed, kind, options, 3), torch.tensor([0, 2, 1, 2, 0, 1])
    inputs = backbone.prepare(random_images(6))
    expected = torch.cat(
        [placed.forward(inputs[[i]], {name: rows[t] for name, rows in bank.items()}) for i, t in enumerate(tasks)]
    )
    got = encode_selected(placed, IMAGES, tasks, bank, Progress("test", 0))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encode_inputs(placed, inputs, tasks, bank), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_average_is_the_mean_of_the_models_weights(choice: str, backbone: Backbone) -> None:
    kind, options = chosen(choice)
    placed = with_places(backbone, kind, options)
    bank = bank_of(placed, kind, options, 3)
    models = Method(kind, SELECTIONS["average"], find_selector("key")).models(bank)
    for step in range(3):
        weights = [placed.at_inference({name: rows[t] for name, rows in bank.items()})[1] for t in range(step + 1)]
        mean = {name: torch.stack([each[name] for each in weights]).mean(0) for name in weights[0]}
        got = placed.encode(IMAGES, {name: rows[step] for name, rows in models.items()})
        torch.testing.assert_close(got, backbone.encode(IMAGES, mean), atol=1e-5, rtol=1e-5)


def test_the_mean_of_products_is_not_the_product_of_means_and_takes_no_memory(backbone: Backbone) -> None:
    kind, options = chosen("lora")
    placed = with_places(backbone, kind, options)
    bank = bank_of(placed, kind, options, 3)
    models = lora.means(bank)
    mixed = {name: rows.mean(0) for name, rows in bank.items()}
    newest = {name: rows[-1] for name, rows in models.items()}
    assert not torch.allclose(placed.encode(IMAGES, mixed), placed.encode(IMAGES, newest), atol=0.1)
    for name, rows in bank.items():
        assert models[name].untyped_storage().nbytes() == rows.numel() * rows.element_size(), "one copy for all steps"


def test_a_is_drawn_by_the_given_generator_and_only_for_a_first_start(backbone: Backbone) -> None:
    kind, options = chosen("lora")
    placed = with_places(backbone, kind, options)
    one, same, other = (start_of(placed, kind, options, seed) for seed in (1, 1, 2))
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name])
        if name.endswith(".lora_a"):
            assert not torch.equal(tensor, other[name])
            assert 0.8 * D**-0.5 < tensor.abs().max() <= D**-0.5
        else:
            assert not tensor.any()
    assert kind.start(placed, options, one, IMAGES, torch.Generator()) == one


@pytest.mark.parametrize(
    ("name", "precision"), [(name, dtype) for name in ("ia3", "lora") for dtype in (torch.float32, torch.bfloat16)]
)
def test_a_layer_puts_out_the_type_that_it_did(name: str, precision: torch.dtype, backbone: Backbone) -> None:
    """In lower precision, too: a factor in float32 would make what follows float32."""
    kind, options = chosen(name)
    placed = with_places(backbone, kind, options)
    tuned = somewhere(placed, kind, options)
    types = set()

    def note(_: object, inputs: tuple[Tensor], output: Tensor) -> None:
        types.update({inputs[0].dtype, output.dtype})

    placed.model.get_submodule("blocks.0.mlp.fc2").register_forward_hook(note)
    placed.model.get_submodule("blocks.0.attn.proj").register_forward_hook(note)
    lower = Backbone(placed.model, placed.mean, placed.std, placed.image_size, precision, placed.folding)
    inputs = backbone.prepare(random_images(4))
    output = lower.forward(inputs, tuned)
    assert types == {precision}
    torch.testing.assert_close(output, placed.forward(inputs, tuned), atol=0.15, rtol=0.1)


SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "num_heads": 2, "depth": 2}
SWIN: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4}


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("deit3_small_patch16_224", SMALL),  # LayerScale
        ("vit_small_patch16_dinov3", SMALL),  # EVA's attention with rotary embeddings
        ("swin_tiny_patch4_window7_224", SWIN),
        ("vit_small_patch16_18x2_224", SMALL),  # two attentions and two MLPs per block,
    ],
)
@pytest.mark.parametrize("choice", CHOICES)
def test_other_models_are_reached_in_every_block(choice: str, model: str, arguments: dict[str, Any]) -> None:
    kind, options = chosen(choice)
    frozen = create_model(model, num_classes=0, **arguments).eval().requires_grad_(requires_grad=False)
    still = torch.zeros(3, 1, 1)
    backbone = Backbone(frozen, still, still + 1, 32)
    placed = with_places(backbone, kind, options)
    inputs = backbone.prepare(random_images(3, size=32))
    start = start_of(placed, kind, options)
    assert torch.equal(placed.forward(inputs, start), frozen(inputs))
    tuned = {name: tensor.requires_grad_() for name, tensor in somewhere(placed, kind, options).items()}
    output = placed.forward(inputs, tuned)
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in tuned.values())
    folded, tensors = placed.at_inference({name: tensor.detach() for name, tensor in tuned.items()})
    torch.testing.assert_close(folded.forward(inputs, tensors), output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("beit_base_patch16_224", SMALL, r"blocks\.0\.attn\.qkv has its biases beside it"),
        ("swinv2_tiny_window8_256", SWIN, "has its biases beside it"),
        ("vit_pwee_patch16_reg1_gap_256", SMALL, "have no linear layer qkv"),  # a product for attention and MLP
    ],
)
def test_a_model_without_fused_qkv_is_refused(model: str, arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"):
        frozen = create_model(model, num_classes=0, **arguments)
        for kind, options in (chosen("ia3"), chosen("lora")):
            with pytest.raises(UserError, match=message):
                kind.places(frozen, options)


def test_a_rank_that_a_layer_cannot_have_is_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"lora\.rank is 17, but the backbone's blocks\.0\.attn\.qkv has rank 16"):
        lora.places(backbone.model, Options(rank=17, alpha=1.0, mlp=False))
    lora.places(backbone.model, Options(rank=16, alpha=1.0, mlp=True))
