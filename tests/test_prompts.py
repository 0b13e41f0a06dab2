"""Prompts: which ones an image gets, what they do in the attention and what learns, against references written out."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from harness.parameters import PLAIN
from harness.tiny import TINY, random_images
from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.tuning import loop
from pipeline.tuning.kind import Kind, find_kind, with_places
from pipeline.tuning.kinds import coda_prompt

WIDTH, HEADS, PATCH, DEPTH = (TINY[name] for name in ("embed_dim", "num_heads", "patch_size", "depth"))
IMAGES = Images.of_pixels(random_images(12))
LABELS = torch.arange(12) % 3
NAMES = ["l2p", "dualprompt", "coda_prompt"]
Prefix = Mapping[int, tuple[Tensor, Tensor]]  # block -> keys and values [L, D]


def of_kind(name: str, backbone: Backbone, **changes: object) -> tuple[Kind, Any, Backbone]:
    kind, small = find_kind(name), PLAIN[name]
    assert isinstance(small, dict)
    options = kind.options(**{**small, **changes})
    return kind, options, with_places(backbone, kind, options)


def started(name: str, backbone: Backbone, tasks: int = 1, **changes: object) -> tuple[Kind, Backbone, Tuned]:
    """The start of the given task, after tasks that have learned nothing."""
    kind, options, placed = of_kind(name, backbone, **changes)
    tuned: Tuned = {}
    for task in range(tasks):
        tuned = kind.start(placed, options, tuned, IMAGES, torch.Generator().manual_seed(task))
    return kind, placed, tuned


def norm(x: Tensor, weights: Tuned, name: str) -> Tensor:
    return functional.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)


def attention(u: Tensor, weights: Tuned, block: str, prefix: tuple[Tensor, Tensor] | None) -> Tensor:
    """Softmax attention of one image [N, D], head by head; the prefix [L, D] joins keys and values."""
    q, k, v = (u @ weights[f"{block}.qkv.weight"].T + weights[f"{block}.qkv.bias"]).chunk(3, dim=1)
    if prefix:
        k, v = torch.cat([prefix[0], k]), torch.cat([prefix[1], v])
    size, outputs = WIDTH // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        outputs.append((q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(1) @ v[:, part])
    return torch.cat(outputs, 1) @ weights[f"{block}.proj.weight"].T + weights[f"{block}.proj.bias"]


def plain_vit(image: Tensor, weights: Tuned, prefix: Prefix, tokens: Tensor | None = None) -> Tensor:
    """Output [D] of the tiny ViT for one image [3, S, S]: of the CLS token, or the mean over the prompt's tokens."""
    patches = functional.conv2d(
        image[None], weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], PATCH
    )
    x = torch.cat([weights["cls_token"][0], patches[0].flatten(1).T]) + weights["pos_embed"][0]
    count = 0 if tokens is None else len(tokens)
    if tokens is not None:
        x = torch.cat([x[:1], tokens + weights["pos_embed"][0, :1], x[1:]])
    for number in range(DEPTH):
        block = f"blocks.{number}"
        x = x + attention(norm(x, weights, f"{block}.norm1"), weights, f"{block}.attn", prefix.get(number))
        hidden = norm(x, weights, f"{block}.norm2") @ weights[f"{block}.mlp.fc1.weight"].T
        hidden = functional.gelu(hidden + weights[f"{block}.mlp.fc1.bias"])
        x = x + hidden @ weights[f"{block}.mlp.fc2.weight"].T + weights[f"{block}.mlp.fc2.bias"]
    x = norm(x, weights, "norm")
    return x[1 : 1 + count].mean(0) if count else x[0]


def l2p_reference(query: Tensor, tuned: Tuned) -> tuple[Prefix, Tensor | None, Tensor]:
    """Prefix, tokens and similarity of one image."""
    cosines = torch.stack([functional.cosine_similarity(query, key, dim=0) for key in tuned["prompts.keys"]])
    best = sorted(range(len(cosines)), key=lambda k: -float(cosines[k]))[:2]
    return {}, torch.cat([tuned["prompts.prompts"][k] for k in best]), cosines[best].sum()


def dualprompt_reference(query: Tensor, tuned: Tuned) -> tuple[Prefix, Tensor | None, Tensor]:
    """Prefix, tokens and similarity of one image."""
    cosines = torch.stack([functional.cosine_similarity(query, key, dim=0) for key in tuned["prompts.keys"]])
    best = int(cosines.argmax())
    general, expert = tuned["prompts.general"][0], tuned["prompts.experts"][best, 0]
    return {0: (general[0], general[1]), 1: (expert[0], expert[1])}, None, cosines[best]


def coda_reference(query: Tensor, tuned: Tuned) -> tuple[Prefix, Tensor | None, Tensor]:
    """Prefix, tokens and nothing."""
    prefix = {}
    for block in range(2):
        total = torch.zeros_like(tuned["prompts.prompts"][0, block])
        for m in range(len(tuned["prompts.keys"])):
            attended = query * tuned["prompts.attention"][m, block]
            weight = functional.cosine_similarity(attended, tuned["prompts.keys"][m, block], dim=0)
            total = total + weight * tuned["prompts.prompts"][m, block]
        prefix[block] = (total[:2], total[2:])
    return prefix, None, torch.zeros(())


REFERENCES = {"l2p": l2p_reference, "dualprompt": dualprompt_reference, "coda_prompt": coda_reference}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_penalty_are_those_of_a_plain_reference(name: str, backbone: Backbone) -> None:
    kind, placed, tuned = started(name, backbone, tasks=3)
    weights = dict(backbone.model.state_dict())
    inputs = backbone.prepare(random_images(6))
    outputs = placed.forward(inputs, tuned)
    assert kind.penalty
    penalty = kind.penalty(placed.model)
    expected, pulled = [], []
    for image in inputs:
        query = plain_vit(image, weights, {})
        prefix, tokens, similarity = REFERENCES[name](query, tuned)
        expected.append(plain_vit(image, weights, prefix, tokens))
        pulled.append(similarity)
    torch.testing.assert_close(outputs, torch.stack(expected), atol=1e-4, rtol=1e-4)
    pull = {"l2p": 0.1, "dualprompt": 1.0, "coda_prompt": 0.0}[name]
    torch.testing.assert_close(penalty, -pull * torch.stack(pulled).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_frozen_query_does_not_see_prompts_and_gets_no_gradient(
    name: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, placed, tuned = started(name, backbone, tasks=2)
    module: Any = placed.model.get_submodule("prompts")
    queries: list[Tensor] = []
    choose = module.choose

    def record(query: Tensor) -> None:
        queries.append(query)
        choose(query)

    monkeypatch.setattr(module, "choose", record)
    inputs = backbone.prepare(random_images(6))
    for factor in (1.0, 5.0):
        values = {key: (factor * tensor).requires_grad_() for key, tensor in tuned.items()}
        placed.forward(inputs, values).square().sum().backward()
    assert torch.equal(queries[0], queries[1])
    assert torch.equal(queries[0], backbone.model(inputs))
    assert not any(query.requires_grad for query in queries)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_s_output_does_not_depend_on_its_batch(name: str, backbone: Backbone) -> None:
    _, placed, tuned = started(name, backbone, tasks=3)
    together = placed.encode(IMAGES, tuned)
    order = torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(placed.encode(IMAGES[order], tuned), together[order], atol=1e-5, rtol=1e-5)
    alone = torch.cat([placed.encode(IMAGES[torch.tensor([row])], tuned) for row in range(len(IMAGES))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dualprompt", "coda_prompt"])
def test_a_task_trains_its_own_rows_and_leaves_those_of_others(name: str, backbone: Backbone) -> None:
    kind, options, placed = of_kind(name, backbone)
    grows = kind.grows(options)
    _, _, before = started(name, backbone, tasks=2)
    start = kind.start(placed, options, before, IMAGES, torch.Generator().manual_seed(2))
    for key, count in grows.items():
        assert len(start[key]) == len(before[key]) + count
        assert torch.equal(start[key][:-count], before[key])
    learned, _ = loop.tune(
        placed,
        start=start,
        images=IMAGES,
        labels=LABELS,
        schedule=loop.Schedule(batch_size=4, lr=0.01, epochs=2, min_crop=1.0, flip=False),
        generator=torch.Generator().manual_seed(0),
        progress=Progress("test", 0),
        penalty=kind.penalty,
        draw=kind.draw,
    )
    for key, tensor in learned.items():
        count = grows.get(key, len(tensor))
        assert torch.equal(tensor[:-count], start[key][:-count]), key
        assert (tensor[-count:] != start[key][-count:]).any(), key


def test_in_training_an_image_gets_its_own_task_s_expert(backbone: Backbone) -> None:
    kind, placed, tuned = started("dualprompt", backbone, tasks=3)
    inputs = backbone.prepare(random_images(6))
    module: Any = placed.model.get_submodule("prompts")
    query = backbone.model(inputs)
    tuned["prompts.keys"] = torch.stack([query.mean(0), query[0], -query.mean(0)])  # the newest is nobody's choice
    placed.forward(inputs, tuned)
    assert not (module.chosen == 2).any()
    placed.forward(inputs, tuned | kind.draw(torch.Generator()))
    assert (module.chosen == 2).all()


def test_in_training_a_batch_gets_the_prompts_that_most_of_its_images_would_choose(backbone: Backbone) -> None:
    """As in the released L2P; `test_an_image_s_output_does_not_depend_on_its_batch` holds at inference."""
    kind, placed, tuned = started("l2p", backbone)
    inputs = backbone.prepare(random_images(7))
    queries, module = backbone.model(inputs), placed.model.get_submodule("prompts")
    of_directions = queries - queries.mean(0)  # so that images choose different prompts
    tuned["prompts.keys"] = torch.stack([of_directions[0], of_directions[3], of_directions[5], queries.mean(0)])
    cosines = functional.cosine_similarity(queries[:, None], tuned["prompts.keys"][None], dim=2)
    votes = Counter(int(prompt) for row in cosines for prompt in row.argsort(descending=True)[:2])
    assert len(votes) > 2, "the images agree anyway"
    winners = sorted(votes, key=lambda prompt: (-votes[prompt], prompt))[:2]
    assert kind.penalty
    outputs = placed.forward(inputs, tuned | kind.draw(torch.Generator()))
    expected = -0.1 * cosines[:, winners].sum(1).mean()
    torch.testing.assert_close(kind.penalty(placed.model), expected, atol=1e-5, rtol=1e-5)
    tokens = torch.cat([tuned["prompts.prompts"][prompt] for prompt in winners])
    weights = dict(backbone.model.state_dict())
    reference = torch.stack([plain_vit(image, weights, {}, tokens) for image in inputs])
    torch.testing.assert_close(outputs, reference, atol=1e-4, rtol=1e-4)
    assert module.tokens.shape == (7, 4, WIDTH)


def test_an_expert_starts_as_the_one_before(backbone: Backbone) -> None:
    _, _, tuned = started("dualprompt", backbone, tasks=3)
    assert torch.equal(tuned["prompts.experts"][2], tuned["prompts.experts"][1])
    assert not torch.equal(tuned["prompts.keys"][2], tuned["prompts.keys"][1])


def test_components_start_orthogonal_as_far_as_the_width_has_room() -> None:
    generator = torch.Generator().manual_seed(0)
    old = coda_prompt.orthogonal(torch.empty(0, 12), 5, generator)
    old = old + 0.1 * torch.randn(old.shape, generator=generator)  # training moves them
    new = coda_prompt.orthogonal(old, 4, generator)
    torch.testing.assert_close(new @ new.T, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(new @ old.T, torch.zeros(4, 5), atol=1e-5, rtol=0)
    crowded = coda_prompt.orthogonal(old, 9, generator)
    torch.testing.assert_close(crowded.norm(dim=1), torch.ones(9))


def test_the_penalty_on_components_is_the_one_written_out(backbone: Backbone) -> None:
    kind, placed, tuned = started("coda_prompt", backbone, tasks=2, orthogonality=0.7)
    tuned = {key: (tensor + 0.1).requires_grad_() for key, tensor in tuned.items()}
    assert kind.penalty

    def penalised(model: nn.Module, values: Tuned) -> Tensor:
        functional_call(model, values, (backbone.prepare(random_images(2)),))
        return kind.penalty(model) if kind.penalty else torch.zeros(())

    with torch.no_grad():
        expected = torch.zeros(())
        for tensor in tuned.values():
            for block in range(2):
                t = tensor[:, block].flatten(1)
                expected = expected + 0.7 * (t @ t.T - torch.eye(len(t))).square().mean()
        torch.testing.assert_close(penalised(placed.model, tuned), expected)


def test_too_few_blocks_are_one_line(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="tuning: coda_prompt puts prompts into 5 blocks, but the backbone has 2"):
        of_kind("coda_prompt", backbone, blocks=5)
