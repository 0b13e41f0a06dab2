"""Memory slots beside attention against a ViT written out in plain torch; what they cost; what is refused."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import run_all
from harness.tiny import TINY, random_images
from pipeline.backbone.timm_vit import create_model
from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.store import artifacts
from pipeline.tuning.kind import with_places
from pipeline.tuning.kinds import apt
from pipeline.tuning.kinds.apt import Options

SLOTS = 3
WIDTH, DEPTH, HEADS, PATCH = (TINY[name] for name in ("embed_dim", "depth", "num_heads", "patch_size"))
HIDDEN, TOKENS = int(WIDTH * TINY["mlp_ratio"]), (TINY["img_size"] // PATCH) ** 2 + 1
IMAGES = Images.of_pixels(random_images(4))


def options(values: str = "scaled", slots: int = SLOTS) -> Options:
    return Options.model_validate({"slots": slots, "values": values})


def started(backbone: Backbone, of: Options, seed: int = 0) -> tuple[Backbone, Tuned]:
    """The backbone with places, and the start of a first task."""
    placed = with_places(backbone, apt.KIND, of)
    return placed, apt.start(placed, of, {}, IMAGES, torch.Generator().manual_seed(seed))


def shaken(tuned: Tuned) -> Tuned:
    """Values as a training might leave them, to which gradients can flow."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: (tensor + 0.3 * torch.randn(tensor.shape, generator=generator)).double().requires_grad_()
        for name, tensor in tuned.items()
    }


def plain_attention(u: Tensor, weights: Tuned, block: str) -> Tensor:
    """Softmax attention, [B, N, D] to the same."""
    qkv = u @ weights[f"{block}.attn.qkv.weight"].T + weights[f"{block}.attn.qkv.bias"]
    q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
    mixed = ((q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)).softmax(3) @ v).transpose(1, 2).flatten(2)
    return functional.linear(mixed, weights[f"{block}.attn.proj.weight"], weights[f"{block}.attn.proj.bias"])


def remembered(u: Tensor, tuned: Tuned, block: str) -> Tensor:
    """g times e of every token, one after the other as the paper writes it."""
    part = {name: tuned[f"{block}.attn.memory.{name}"] for name in ("slots", "down", "up")}
    factor = tuned.get(f"{block}.attn.memory.factor", torch.ones((), dtype=u.dtype))
    adapted = torch.stack([m + part["up"] @ (part["down"] @ m) for m in part["slots"]])
    added = []
    for token in u.flatten(0, 1):
        a = torch.stack([functional.relu(torch.dot(token, q)) for q in adapted])
        e = sum((a[j] * factor * part["slots"][j] for j in range(len(adapted))), torch.zeros(WIDTH, dtype=u.dtype))
        added.append(a.max().detach() * e)
    return torch.stack(added).view_as(u)


def plain_vit(images: Tensor, weights: Tuned, tuned: Tuned) -> Tensor:
    """CLS output [B, D] of the tiny ViT with memory, without timm."""

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    patches = functional.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], PATCH)
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x], 1) + weights["pos_embed"]
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        u = norm(x, f"{block}.norm1")
        attended = plain_attention(u, weights, block) + remembered(u, tuned, block)
        x = x + torch.exp(tuned[f"{block}.attn.memory.scale"]) * attended
        hidden = norm(x, f"{block}.norm2") @ weights[f"{block}.mlp.fc1.weight"].T + weights[f"{block}.mlp.fc1.bias"]
        x = x + functional.gelu(hidden) @ weights[f"{block}.mlp.fc2.weight"].T + weights[f"{block}.mlp.fc2.bias"]
    return norm(x, "norm")[:, 0]


@pytest.mark.parametrize("values", ["scaled", "plain"])
def test_values_and_gradients_are_those_of_a_plain_reference(values: str, backbone: Backbone) -> None:
    placed, start = started(backbone, options(values))
    inputs = backbone.prepare(random_images(4)).double()
    weights = {name: tensor.double() for name, tensor in backbone.model.state_dict().items()}
    model = copy.deepcopy(placed.model).double()
    results = []
    for compute in (
        lambda images, tuned: functional_call(model, tuned, (images,)),
        lambda images, tuned: plain_vit(images, weights, tuned),
    ):
        tuned = shaken(start)
        features = compute(inputs, tuned)
        features.square().sum().backward()
        results.append((features.detach(), {name: tensor.grad for name, tensor in tuned.items()}))
    (ours, our_gradients), (theirs, their_gradients) = results
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert our_gradients.keys() == start.keys()
    for name, gradient in our_gradients.items():
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, their_gradients[name], atol=1e-5, rtol=1e-5, msg=name)


def test_as_published_the_start_differs_by_the_slots_answers_alone(backbone: Backbone) -> None:
    placed, start = started(backbone, options("plain"))
    inputs = backbone.prepare(random_images(4))
    pretrained = backbone.model(inputs)
    difference = (placed.forward(inputs, start) - pretrained).abs().max()
    assert 0 < difference < 0.05
    weights = {name: tensor.detach() for name, tensor in backbone.model.state_dict().items()}
    torch.testing.assert_close(placed.forward(inputs, start), plain_vit(inputs, weights, start), atol=1e-5, rtol=1e-5)
    silent = start | {name: torch.zeros_like(tensor) for name, tensor in start.items() if name.endswith(".slots")}
    assert torch.equal(placed.forward(inputs, silent), pretrained)


def test_the_start_is_as_published(backbone: Backbone) -> None:
    placed, start = started(backbone, options(slots=500))
    generator = torch.Generator().manual_seed(0)
    assert start.keys() == apt.start(placed, options(slots=500), {}, IMAGES, generator).keys()
    for name, tensor in start.items():
        size = {"slots": 0.02, "down": 1.0}.get(name.rpartition(".")[2], 0.0)
        assert float(tensor.square().mean().sqrt()) == pytest.approx(size, rel=0.3), name
    assert apt.start(placed, options(), start, IMAGES, generator) is start, "a task starts from the one before"


@pytest.mark.parametrize(
    ("slots", "values", "expected"),
    [(50, "plain", 534_540), (4, "plain", 110_604), (50, "scaled", 534_552), (4, "scaled", 110_616)],
)
def test_published_numbers_of_parameters(slots: int, values: str, expected: int) -> None:
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", num_classes=0)
    placed = apt.places(model, options(values, slots))
    before = dict(model.named_parameters())
    new = {name: parameter for name, parameter in placed.named_parameters() if name not in before}
    assert sum(parameter.numel() for parameter in new.values()) == expected


def test_no_gradient_of_a_frozen_weight_is_computed(backbone: Backbone) -> None:
    """Operations of the backward pass: gradients of what enters a layer, and of the memory, and no others."""
    placed, start = started(backbone, options())
    inputs = backbone.prepare(random_images(4))
    tuned = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    with sdpa_kernel(SDPBackend.MATH):
        loss = placed.forward(inputs, tuned).sum()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
    tokens = 2 * 4 * TOKENS  # two operations for each product and sum
    mlp, linear = tokens * 2 * WIDTH * HIDDEN, tokens * 4 * WIDTH**2
    attention = 2 * tokens * 2 * TOKENS * WIDTH  # both factors of both products
    answers = tokens * SLOTS * WIDTH
    memory = 4 * answers + 2 * 2 * 2 * SLOTS * 4 * WIDTH  # both factors: answers, values; the same of W1 and W2
    # Nothing before the first block is tuned: what enters its attention has no gradient.
    expected = DEPTH * (mlp + memory) - answers + (DEPTH - 1) * (linear + attention)
    assert counter.get_total_flops() == expected


def test_a_pass_costs_the_answers_of_every_token(backbone: Backbone) -> None:
    placed, start = started(backbone, options())
    per_block = 2 * TOKENS * 2 * SLOTS * WIDTH + 2 * 2 * SLOTS * 4 * WIDTH
    assert placed.flops(start) - backbone.flops({}) == DEPTH * per_block


@pytest.mark.parametrize(
    ("name", "memories"),
    [
        ("vit_tiny_patch16_224", 12),
        ("swin_tiny_patch4_window7_224", 12),
        ("swinv2_cr_tiny_ns_224", 12),
        ("beit_base_patch16_224", 12),
        ("eva02_base_patch16_clip_224", 12),
        ("vit_small_patch16_18x2_224", 36),
        ("deit3_base_patch16_224", 12),
    ],
)
def test_every_attention_of_other_families_gets_a_memory(name: str, memories: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=0)
    placed = apt.places(model, options())
    assert sum(isinstance(module, apt.Memory) for module in placed.modules()) == memories
    assert not any(isinstance(module, apt.Memory) for module in model.modules())
    size = model.patch_embed.img_size
    assert placed(torch.zeros(1, 3, *size, device="meta")).shape == (1, model.num_features)


def test_a_block_without_an_attention_of_its_own_is_refused_in_one_line() -> None:
    with torch.device("meta"):
        model = create_model("vit_pwee_patch16_reg1_gap_256", num_classes=0)
    with pytest.raises(UserError, match=r"tuning: apt, but the backbone's blocks\.0 has no attention of its own: set"):
        apt.places(model, options())


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"apt.slots": 0}, "apt.slots: input should be greater than or equal to 1, found 0"),
        ({"apt.slots": 2.5}, "apt.slots: input should be a valid integer, found 2.5"),
        ({"apt.values": "none"}, "apt.values: input should be 'scaled' or 'plain', found 'none'"),
        (
            {"selection": "average", "tuning_init": "pretrained"},
            "a mean of what tuning: apt tunes needs tasks that start from one another: set tuning_init: previous",
        ),
    ],
)
def test_bad_options_are_one_line(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), tuning="apt", **changes)
    with pytest.raises(UserError, match=message):
        run_stage("method")


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("classifier", ["softmax", "carried_gaussians"])
def test_the_mean_of_a_chain_is_one_model_and_one_pass(classifier: str) -> None:
    set_params(Path("params.yaml"), tuning="apt", selection="average", classifier=classifier, **{"apt.slots": SLOTS})
    run_all(3)
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    numbers = DEPTH * (SLOTS * WIDTH + 8 * WIDTH + 2)
    assert metrics["task_parameters"] == numbers
    assert metrics["passes_at_inference"] == 1
    bank = artifacts.load_tensors(artifacts.bank_file("t3"))
    assert sum(rows[0].numel() for rows in bank.values()) == numbers
    assert all(not torch.equal(*pair) for rows in bank.values() for pair in itertools.pairwise(rows))
