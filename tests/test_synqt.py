"""Queries beside the frozen stream: a plain reference, and what they cost."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.tiny import TINY, random_images, tiny_weights
from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.inference.branching import BranchingEncoder
from pipeline.progress import Progress
from pipeline.selection.choose import SELECTIONS, Choice
from pipeline.selection.selector import find_selector
from pipeline.store.cumulative import row
from pipeline.tuning.kind import with_places
from pipeline.tuning.kinds import synqt
from pipeline.tuning.kinds.synqt import Branched, Options, Together
from pipeline.tuning.stream import ask

D, H, L, N = 16, 32, 2, 5  # width, hidden units, blocks and tokens of the tiny ViT
HEADS = int(TINY["num_heads"])
IMAGES = Images.of_pixels(random_images(6))
FORMS = [("slim", 1), ("slim", 3), ("published", 4)]
SHIFTS = ".k.up_bias"  # moves all scores of a query alike, so nothing depends on it


def options(form: str = "slim", queries: int = 1, feature: str = "added") -> Options:
    return Options.model_validate({"form": form, "queries": queries, "feature": feature})


def started(backbone: Backbone, of: Options, seed: int = 0) -> tuple[Backbone, Tuned]:
    """The backbone with places, and the start of a first task."""
    placed = with_places(backbone, synqt.KIND, of)
    return placed, synqt.start(placed, of, {}, IMAGES, torch.Generator().manual_seed(seed))


def shaken(tuned: Tuned, seed: int = 3) -> Tuned:
    """Values as a training might leave them, to which gradients can flow."""
    random = torch.Generator().manual_seed(seed)
    return {name: tensor + 0.3 * torch.randn(tensor.shape, generator=random) for name, tensor in tuned.items()}


def layer_norm(x: Tensor, weight: Tensor | float, bias: Tensor | float) -> Tensor:
    deviation = (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    return (x - x.mean(-1, keepdim=True)) / deviation * weight + bias


def plain(images: Tensor, weights: Tuned, tuned: Tuned) -> Tensor:
    """The branch's feature [B, D] in plain torch. First all tokens run, then the queries, block after block."""

    def frozen_norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def frozen(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def attention(q: Tensor, k: Tensor, v: Tensor, name: str) -> Tensor:
        size, found = D // HEADS, []
        for head in range(HEADS):
            rows = slice(head * size, (head + 1) * size)
            scores = q[..., rows] @ k[..., rows].transpose(1, 2) / math.sqrt(size)
            found.append(scores.softmax(-1) @ v[..., rows])
        return frozen(torch.cat(found, -1), f"{name}.attn.proj")

    def mlp(x: Tensor, name: str) -> Tensor:
        hidden = functional.gelu(frozen(frozen_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return frozen(hidden, f"{name}.mlp.fc2")

    def get(name: str) -> Tensor:
        return tuned[f"branch.{name}"]

    def adapter(x: Tensor, name: str) -> Tensor:
        hidden = functional.gelu(x @ get(f"{name}.down").T + tuned.get(f"branch.{name}.down_bias", 0))
        return x + hidden @ get(f"{name}.up").T + tuned.get(f"branch.{name}.up_bias", 0)

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, tuned.get(f"branch.{name}.weight", 1), tuned.get(f"branch.{name}.bias", 0))

    def mixed(x: Tensor, name: str) -> Tensor:
        q = adapter(norm(x, f"{name}.q_norm"), f"{name}.q")
        k, v = (adapter(norm(x, f"{name}.kv_norm"), f"{name}.{which}") for which in "kv")
        return adapter((q @ k.transpose(1, 2) / math.sqrt(D)).softmax(-1) @ v, f"{name}.out")

    patches = functional.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=8)
    x = torch.cat([weights["cls_token"].expand(len(images), 1, D), patches.flatten(2).transpose(1, 2)], 1)
    x, known = x + weights["pos_embed"], []
    for block in (f"blocks.{number}" for number in range(L)):
        q, k, v = frozen(frozen_norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(D, dim=-1)
        known.append((k, v))
        x = x + attention(q, k, v, block)
        x = x + mlp(x, block)
    output, vectors, answers, before = frozen_norm(x, "norm")[:, 0], [], [], None
    for number, (k, v) in enumerate(known):
        block, step = f"blocks.{number}", f"steps.{number}"
        p = torch.stack([get(f"{step}.queries")] * len(images))
        if before is not None:
            p = p + get(f"{step}.before") * before[:, None]
        p = adapter(p, f"{step}.enter")
        if f"branch.{step}.mix_share" in tuned:
            p = p + get(f"{step}.mix_share") * mixed(norm(p, f"{step}.mix_norm"), f"{step}.mix")
        p = p + get(f"{step}.adapter_share") * adapter(norm(p, f"{step}.norm"), f"{step}.adapter")
        query = frozen(frozen_norm(p, f"{block}.norm1"), f"{block}.attn.qkv")[..., :D]
        h = attention(query, k, v, block)
        f = mlp(p + h, block)
        before = (p + h + f).mean(1)
        vectors += [before, h.mean(1), f.mean(1)]
        answers.append(h.mean(1))
    assert before is not None
    if "branch.combine.down" in tuned:
        moved = [v + adapter(norm(v, "combine.norm"), "combine.adapter") for v in (before, *vectors)]
        share = torch.tanh(functional.gelu(moved[0] @ get("combine.down").T + get("combine.bias")))
        formed = moved[0] + sum(share[:, [i]] * v for i, v in enumerate(moved[1:]))
    else:
        formed = before + sum(answers) / L
    formed = norm(formed, "norm")
    return output + get("factor") * formed if "branch.factor" in tuned else formed


@pytest.mark.parametrize("feature", ["added", "alone"])
@pytest.mark.parametrize(("form", "queries"), FORMS)
def test_values_and_gradients_are_those_of_a_plain_reference(
    form: str, queries: int, feature: str, backbone: Backbone
) -> None:
    placed, start = started(backbone, options(form, queries, feature))
    inputs = backbone.prepare(random_images(6))
    tuned = {name: tensor.requires_grad_() for name, tensor in shaken(start).items()}
    ours, expected = placed.forward(inputs, tuned), plain(inputs, tiny_weights(), tuned)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    target = torch.randn(6, D, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad((ours * target).mean(), list(tuned.values()))
    wanted = torch.autograd.grad((expected * target).mean(), list(tuned.values()))
    for name, gradient, right in zip(tuned, gradients, wanted, strict=True):
        assert right.abs().max() > 1e-6 or name.endswith(SHIFTS), name
        torch.testing.assert_close(gradient, right, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("form", "queries"), FORMS)
def test_a_feature_added_starts_as_the_pretrained_one_and_a_feature_alone_does_not(
    form: str, queries: int, backbone: Backbone
) -> None:
    inputs = backbone.prepare(random_images(5))
    expected = backbone.model(inputs)
    placed, start = started(backbone, options(form, queries))
    assert torch.equal(placed.forward(inputs, start), expected)
    placed, start = started(backbone, options(form, queries, "alone"))
    assert not torch.allclose(placed.forward(inputs, start), expected, atol=0.1)
    assert torch.equal(backbone.model(inputs), expected), "no hook is left behind"


@pytest.mark.parametrize(("queries", "published"), [(1, 2_622_840), (16, 2_761_080)])
def test_the_published_numbers_of_parameters(queries: int, published: int) -> None:
    """Theirs has 18,432 of a LayerNorm per block that nothing uses, and the share of a block before the first."""
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", num_classes=0)
        placed = Branched(model, options("published", queries, "alone"))
    count = sum(parameter.numel() for parameter in placed.branch.parameters())
    assert count + 18_432 + 1 == published


def test_the_slim_form_has_about_150_thousand() -> None:
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", num_classes=0)
        placed = Branched(model, options())
    # A query and two adapters of 4 per block; the last LayerNorm; two shares per block but the first, which has one; v
    expected = 12 * (768 + 2 * 2 * 4 * 768) + 2 * 768 + 2 * 12 - 1 + 1
    assert sum(parameter.numel() for parameter in placed.branch.parameters()) == expected == 158_232


def bank_of(start: Tuned, tasks: int = 3) -> dict[str, Tensor]:
    of_task = [shaken(start, seed) for seed in range(tasks)]
    return {name: torch.stack([tuned[name] for tuned in of_task]) for name in of_task[0]}


@pytest.mark.parametrize(("form", "queries"), FORMS)
def test_one_pass_gives_the_query_and_every_tasks_feature_bit_for_bit(
    form: str, queries: int, backbone: Backbone
) -> None:
    placed, start = started(backbone, options(form, queries))
    bank, inputs = bank_of(start), backbone.prepare(random_images(6))
    query, *features = Together(placed.model, bank)(inputs).split(D, 1)
    assert torch.equal(query, backbone.model(inputs))
    for task, feature in enumerate(features):
        assert torch.equal(feature, placed.forward(inputs, row(bank, task)))
    fewer = {name: rows[:2] for name, rows in bank.items()}
    before = Together(placed.model, fewer)(inputs)
    assert torch.equal(before, torch.cat([query, *features[:2]], 1)), "a new task changes no feature"


def test_no_gradient_of_a_frozen_weight_is_computed(backbone: Backbone) -> None:
    """Operations of the backward pass: through what the queries ask, and of adapters; the tokens have none."""
    placed, start = started(backbone, options())
    tuned = {name: tensor.requires_grad_() for name, tensor in shaken(start).items()}
    inputs = backbone.prepare(random_images(7))

    def counted() -> int:
        with sdpa_kernel(SDPBackend.MATH):
            loss = placed.forward(inputs, tuned).sum()
            with FlopCounterMode(display=False) as counter:
                loss.backward()
        return int(counter.get_total_flops())

    rows = 2 * 7  # one query per image; two operations for each product and sum
    asked = rows * (2 * D * D + 2 * N * D)  # W_q and proj, scores and their use: of what comes in alone
    adapters = rows * 2 * 2 * 2 * 4 * D  # two, of two matrices; of what comes in and of the matrix
    expected = L * (asked + rows * 2 * D * H + adapters)
    assert counted() == expected
    placed.model.get_parameter("model.blocks.0.mlp.fc2.weight").requires_grad_()
    assert counted() >= expected + rows * D * H, "one gradient of a weight would be seen"


def test_a_pass_of_all_tasks_costs_little_more_than_the_frozen_one() -> None:
    """ViT-B/16 with ten tasks: about five percent, as each has one query beside 197 tokens."""
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", num_classes=0).eval()
        placed = Branched(model, options())
        bank = {name: torch.empty(10, *each.shape) for name, each in placed.named_parameters() if "branch" in name}
        together = Together(placed, bank)
        counts = []
        for each in (model, together):
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                each(torch.empty(1, 3, 224, 224))
            counts.append(counter.get_total_flops())
    assert 1.03 < counts[1] / counts[0] < 1.07


@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "beit_base_patch16_224",
        "vit_pwee_patch16_reg1_gap_256",
        "vit_small_patch16_18x2_224",
    ],
)
def test_other_blocks_are_refused_in_one_line(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=0)
    with pytest.raises(UserError, match=r"^params.yaml: the backbone's \S+ is no block of a plain ViT.*: set tuning"):
        Branched(model, options())


@pytest.mark.parametrize(
    "arguments", [{"init_values": 0.1}, {"qk_norm": True}, {"global_pool": "avg"}, {"qkv_bias": False}]
)
def test_other_plain_vits_ask_as_their_tokens_do(arguments: dict[str, object]) -> None:
    """Queries that are a block's tokens get what its tokens get: whatever the block is made of."""
    torch.manual_seed(0)
    model = VisionTransformer(**TINY | arguments, num_classes=0).eval().requires_grad_(False)
    block, tokens = model.blocks[1], torch.randn(2, N, D)
    found, formed = ask(block, tokens, block.attn.qkv(block.norm1(tokens)))
    torch.testing.assert_close(tokens + found + formed, block(tokens), atol=1e-5, rtol=1e-5)
    placed = Branched(model, options())
    assert placed(torch.randn(2, 3, 16, 16)).shape == (2, D)


def test_a_task_goes_on_from_the_one_before_and_a_first_start_is_drawn(backbone: Backbone) -> None:
    placed, start = started(backbone, options("published", 4), seed=1)
    _, same = started(backbone, options("published", 4), seed=1)
    _, other = started(backbone, options("published", 4), seed=2)
    drawn = {name for name, tensor in start.items() if not torch.equal(tensor, other[name])}
    assert drawn == {name for name in start if name.endswith((".queries", ".down"))}
    assert all(torch.equal(tensor, same[name]) for name, tensor in start.items())
    assert all(float(start[name].abs().max()) <= 1 for name in drawn)
    assert synqt.start(placed, options("published", 4), start, IMAGES, torch.Generator()) is start


def test_features_that_are_not_finite_are_one_line(backbone: Backbone) -> None:
    placed, start = started(backbone, options())
    broken = {name: torch.full_like(tensor, math.inf)[None] for name, tensor in start.items()}
    choice = Choice(SELECTIONS["latest"], find_selector("key"), {"task": torch.zeros(1, dtype=torch.int64)})
    encoder = BranchingEncoder(placed, synqt.KIND, broken, choice, [], Progress("test", 0))
    with pytest.raises(UserError, match="features of the branches are not finite: lower lr"):
        encoder.encode(IMAGES)
    fine = BranchingEncoder(placed, synqt.KIND, {k: v[None] for k, v in start.items()}, choice, [], Progress("test", 0))
    assert fine.encode(IMAGES[:0]).features.shape == (0, D)
