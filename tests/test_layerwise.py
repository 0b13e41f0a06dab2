"""The single-pass variant: its equivalents with one task or one choice, and what its keys learn."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from harness.tiny import TINY, pretrained_layernorms, random_images
from pipeline.backbone.build import build_backbone
from pipeline.backbone.timm_vit import VisionTransformer
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.inference.choosing import ChoosingEncoder
from pipeline.inference.feature_table import FeatureTable
from pipeline.progress import Progress
from pipeline.tuning.kind import with_places
from pipeline.tuning.kinds import layerwise
from pipeline.tuning.kinds.layerwise import Options, initial_keys, layerwise_norms, penalty
from pipeline.tuning.loop import Schedule, tune

IMAGES = Images.of_pixels(random_images(40))
TASKS = 3


def random_bank(backbone: Backbone, *, keys: bool = True) -> dict[str, torch.Tensor]:
    """LayerNorms of three tasks, far apart, and random keys."""
    generator = torch.Generator().manual_seed(5)
    bank = {
        name: tensor + 0.5 * torch.randn(TASKS, len(tensor), generator=generator)
        for name, tensor in pretrained_layernorms(backbone).items()
    }
    if keys:
        norms = {name.rpartition(".")[0] for name in bank}
        bank |= {f"{norm}.key": torch.randn(TASKS, 16, generator=generator) for norm in sorted(norms)}
    return bank


def with_norms(backbone: Backbone, *, norms: str = "all", parameters: str = "both", detach: bool = False) -> Backbone:
    """The backbone with LayerNorms that choose."""
    options = Options.model_validate({"norms": norms, "parameters": parameters, "attention": False, "detach": detach})
    return with_places(backbone, layerwise.KIND, options)


def encode(layered: Backbone, images: Images, bank: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and chosen tasks."""
    return ChoosingEncoder(layered, bank, layerwise.KIND, Progress("test", 0)).encode(images)


def of_task(bank: dict[str, torch.Tensor], task: int) -> dict[str, torch.Tensor]:
    return {name: rows[task] for name, rows in bank.items() if not name.endswith((".key", ".attention"))}


def test_with_one_task_it_is_that_tasks_model_bit_for_bit(backbone: Backbone) -> None:
    bank = random_bank(backbone)
    layered = with_norms(backbone)
    for task in range(TASKS):
        features, chosen = encode(layered, IMAGES, {name: rows[task : task + 1] for name, rows in bank.items()})
        assert torch.equal(features, backbone.encode(IMAGES, of_task(bank, task)))
        assert not chosen.any()


def test_with_keys_forced_to_one_task_it_is_that_tasks_model_bit_for_bit(backbone: Backbone) -> None:
    """An image's own CLS tokens are the keys of a task, so their cosine is 1; zero attention gives the others 0."""
    bank, image = random_bank(backbone), IMAGES[:1]
    layered = with_norms(backbone)
    for task in range(TASKS):
        only = {name: rows[task] for name, rows in bank.items()}
        forced = dict(bank)
        for name, token in initial_keys(layered, image, only).items():
            forced[name] = torch.ones(TASKS, 16)
            forced[name][task] = token
            forced[name.replace(".key", ".attention")] = (torch.arange(TASKS) == task).float()[:, None].expand(-1, 16)
        features, chosen = encode(layered, image, forced)
        assert chosen.tolist() == [task]
        assert torch.equal(features, backbone.encode(image, of_task(bank, task)))


def test_images_choose_for_themselves_at_every_norm(backbone: Backbone) -> None:
    """A batch of mixed choices equals its images one at a time."""
    bank = random_bank(backbone)
    layered = with_norms(backbone)
    features, chosen = encode(layered, IMAGES, bank)
    assert len(chosen.unique()) > 1
    for image in range(len(IMAGES)):
        alone, task = encode(layered, IMAGES[image : image + 1], bank)
        torch.testing.assert_close(alone[0], features[image], atol=1e-5, rtol=1e-4)
        assert task == chosen[image]


def test_untuned_parts_keep_their_pretrained_values(backbone: Backbone) -> None:
    """Scale only, of one norm: its bias, and all other norms, are the model's own."""
    bank = {name: rows for name, rows in random_bank(backbone).items() if name in ("norm.weight", "norm.key")}
    layered = with_norms(backbone, norms="final", parameters="scale")
    assert list(layerwise_norms(layered.model)) == ["norm"]
    features, chosen = encode(layered, IMAGES, bank)
    for image, task in enumerate(chosen.tolist()):
        expected = backbone.encode(IMAGES[image : image + 1], {"norm.weight": bank["norm.weight"][task]})[0]
        torch.testing.assert_close(features[image], expected, atol=1e-5, rtol=1e-4)
    assert not layerwise_norms(backbone.model), "the given backbone is left alone"


def test_the_first_key_is_the_mean_direction_of_the_tokens(backbone: Backbone) -> None:
    layered = with_norms(backbone)
    keys = initial_keys(layered, IMAGES, {})
    tokens: list[torch.Tensor] = []
    layered.model.get_submodule("blocks.1.norm1").register_forward_pre_hook(
        lambda _, inputs: tokens.append(inputs[0][:, 0])
    )
    layered.encode(IMAGES, {})
    expected = functional.normalize(functional.normalize(torch.cat(tokens), dim=1).mean(0), dim=0)
    torch.testing.assert_close(keys["blocks.1.norm1.key"], expected)


@pytest.mark.parametrize("detach", [False, True])
def test_detached_selection_shapes_no_feature(backbone: Backbone, detach: bool) -> None:
    layered = with_norms(backbone, detach=detach)
    start = {name: rows[:1].clone().requires_grad_() for name, rows in random_bank(backbone).items()}
    layered.forward(backbone.prepare(random_images(4)), start)
    scales = [tensor for name, tensor in start.items() if name.endswith(".weight")]
    keys = [tensor for name, tensor in start.items() if name.endswith(".key")]
    gradients = torch.autograd.grad(-penalty(layered.model), [*scales, *keys], allow_unused=True)
    of_scales, of_keys = gradients[: len(scales)], gradients[len(scales) :]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in of_keys)
    assert all(gradient is None for gradient in of_scales) == detach


def test_training_raises_the_similarity_and_learns_attention(backbone: Backbone, progress: Progress) -> None:
    layered = with_norms(backbone)
    start = {name: tensor[None] for name, tensor in pretrained_layernorms(backbone).items()}
    start |= {f"{name}.attention": torch.ones(1, 16) for name in layerwise_norms(layered.model)}
    start |= {f"{name}.key": torch.randn(1, 16) for name in layerwise_norms(layered.model)}
    inputs = backbone.prepare(random_images(20))
    layered.forward(inputs, start)
    before = -penalty(layered.model)
    learned, _ = tune(
        layered,
        start=start,
        images=Images.of_pixels(random_images(20)),
        labels=torch.arange(20) % 4,
        schedule=Schedule(batch_size=10, lr=0.05, epochs=10, min_crop=1.0, flip=False),
        generator=torch.Generator().manual_seed(0),
        progress=progress,
        penalty=penalty,
    )
    layered.forward(inputs, learned)
    assert -penalty(layered.model) > before + 0.3
    assert learned.keys() == start.keys()
    assert any(not torch.equal(rows, torch.ones(1, 16)) for name, rows in learned.items() if "attention" in name)


def test_every_step_is_one_pass_for_every_image_so_far(backbone: Backbone) -> None:
    bank, table, per_task = random_bank(backbone), FeatureTable.empty(16), 10
    for step in range(TASKS):
        rows = {name: tensor[: step + 1] for name, tensor in bank.items()}
        count = (step + 1) * per_task
        encoder = ChoosingEncoder(with_norms(backbone), rows, layerwise.KIND, Progress("test", 0))
        none = torch.empty(0)
        table = encoder.extend(table, IMAGES[:count], none, none)
        features, selected = encoder.encode(IMAGES[:count])
        assert torch.equal(table.after(step, torch.arange(count)), features)
        assert torch.equal(table.selected[step, :count], selected)
    assert table.tuned_passes.tolist() == [10, 20, 30]
    own = table.of_own_task(torch.tensor([15]))[0]
    torch.testing.assert_close(own, backbone.encode(IMAGES[15:16], of_task(bank, 1))[0], atol=1e-5, rtol=1e-4)


def other_backbone(**arguments: Any) -> Backbone:  # noqa: ANN401
    """A tiny ViT that differs in these arguments."""
    architecture = TINY | arguments
    config = {"architecture": architecture, "mean": [0.5] * 3, "std": [0.5] * 3}
    weights = VisionTransformer(**architecture, num_classes=0).state_dict()
    return build_backbone(weights, config, image_size=16, normalize="none", device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_token": False, "global_pool": "avg"}, "layerwise needs a backbone with a CLS token"),
        ({"qk_norm": True}, r"no CLS token enters the backbone's blocks\.0\.attn\.k_norm: set tuning: layernorm"),
    ],
)
def test_norms_that_no_class_token_enters_are_refused(arguments: dict[str, Any], message: str) -> None:
    backbone = other_backbone(**arguments)
    with pytest.raises(UserError, match=message):
        with_norms(backbone)


def test_register_tokens_do_not_take_the_class_tokens_place() -> None:
    backbone = other_backbone(reg_tokens=3)
    layered = with_norms(backbone)
    keys = initial_keys(layered, IMAGES[:1], pretrained_layernorms(backbone))
    token = backbone.model.cls_token + backbone.model.pos_embed[:, :1]
    torch.testing.assert_close(keys["blocks.0.norm1.key"], functional.normalize(token[0, 0], dim=0))
