"""`features`: vectors of the last blocks, against tokens that a plain forward pass leaves behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import make_repository, prepare, refusal, run_all
from harness.tiny import pretrained_layernorms, random_images
from pipeline.backbone.timm_vit import create_model
from pipeline.backbone.vectors import layout_of
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.inference.learner import load_learner
from pipeline.inference.manifest import read_manifest
from pipeline.layout import Layout
from pipeline.store import artifacts
from pipeline.tuning.kind import find_kind, with_places

SIZES: dict[str, Any] = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 2}
PATCH: dict[str, Any] = SIZES | {"patch_size": 8}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {  # name, arguments, vectors per block
    "class token": ("vit_tiny_patch16_224", PATCH, 2),
    "class token and registers": ("vit_tiny_patch16_224", PATCH | {"reg_tokens": 3}, 2),
    "mean and fc_norm": ("vit_tiny_patch16_224", PATCH | {"global_pool": "avg"}, 2),
    "mean, no class token": ("vit_tiny_patch16_224", PATCH | {"global_pool": "avg", "class_token": False}, 1),
    "attention pool": ("vit_tiny_patch16_224", PATCH | {"global_pool": "map", "class_token": False}, 2),
    "distilled": ("deit_tiny_distilled_patch16_224", PATCH, 2),
    "BEiT": ("beit_base_patch16_224", PATCH, 2),
    "EVA": ("eva02_tiny_patch14_224", PATCH, 2),
}


def built(kind: str) -> Backbone:
    name, arguments, _ = MODELS[kind]
    torch.manual_seed(0)
    model = create_model(name, pretrained=False, num_classes=0, **arguments).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return Backbone(model, torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5), 32)


def block_outputs(model: Any, inputs: Tensor) -> list[Tensor]:  # noqa: ANN401
    """What leaves each block in a plain pass, first to last: [B, tokens, D]."""
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *seen: outputs.append(seen[2])) for block in model.blocks]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("kind", MODELS)
def test_vectors_are_pools_of_what_leaves_the_last_blocks(kind: str) -> None:
    backbone, per_block = built(kind), MODELS[kind][2]
    model: Any = backbone.model
    layout = layout_of(model, "last_2")
    assert layout == Layout(32, 2, per_block)
    assert layout_of(model, "cls_patch") == Layout(32, 1, per_block)
    assert layout_of(model, "cls_2") == Layout(32, 2)
    rich = replace(backbone, vectors=layout)
    inputs = backbone.prepare(random_images(3, size=32))
    features = rich.features(inputs, {})
    assert features.shape == (3, layout.size)
    assert torch.equal(features[:, :32], backbone.forward(inputs, {})), "the model's own output comes first"
    assert torch.equal(rich.forward(inputs, {}), backbone.forward(inputs, {})), "stage one sees the output alone"

    expected = []
    for tokens in block_outputs(model, inputs)[:0:-1]:
        normed = model.norm(tokens)
        patches = model.fc_norm(normed[:, model.num_prefix_tokens :].mean(1))
        expected.append(model.forward_head(normed, pre_logits=True))
        if per_block == 2:
            expected.append(model.fc_norm(normed[:, 0]) if model.global_pool == "avg" else patches)
    torch.testing.assert_close(features, torch.cat(expected, 1), atol=1e-5, rtol=1e-5)
    outputs = replace(backbone, vectors=layout_of(model, "cls_2")).features(inputs, {})
    assert torch.equal(outputs, torch.cat([features[:, :32], features[:, 32 * per_block : 32 * per_block + 32]], 1))


OPTIONS: dict[str, dict[str, Any]] = {
    "layernorm": {"norms": "all", "parameters": "both"},
    "ia3": {},
    "lora": {"rank": 2, "alpha": 4.0, "mlp": True},
    "apt": {"slots": 2, "values": "plain"},
    "full": {},
}


@pytest.mark.parametrize("tuning", OPTIONS)
def test_read_the_model_with_the_tensors_of_a_task(backbone: Backbone, tuning: str) -> None:
    kind = find_kind(tuning)
    options = kind.options(**OPTIONS[tuning])
    placed = with_places(backbone, kind, options)
    generator = torch.Generator().manual_seed(0)
    images = Images.of_pixels(random_images(5))
    tuned = kind.start(placed, options, {}, images, generator)
    tuned = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in tuned.items()}
    rich = replace(placed, vectors=layout_of(backbone.model, "last_2"))
    features = rich.encode(images, tuned)
    assert features.shape == (5, 64)
    assert torch.equal(features[:, :16], placed.encode(images, tuned))
    frozen = replace(backbone, vectors=rich.vectors).encode(images, {})
    assert not torch.allclose(features[:, 32:48], frozen[:, 32:48], atol=1e-3), "the block before moves, too"


def test_cost_little_more_than_a_pass(backbone: Backbone) -> None:
    rich = replace(backbone, vectors=layout_of(backbone.model, "last_2"))
    tuned = pretrained_layernorms(backbone)
    assert backbone.flops(tuned) <= rich.flops(tuned) <= 1.05 * backbone.flops(tuned)


@pytest.mark.parametrize("features", ["cls_patch", "cls_2", "last_2"])
def test_a_model_without_one_row_of_tokens_is_refused(features: str) -> None:
    model = create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=0, depths=(1, 1, 1, 1))
    assert "SwinTransformer has none: set features: cls" in refusal(lambda: layout_of(model, features))
    assert layout_of(model, "cls") == Layout(model.num_features)


@pytest.mark.parametrize("features", ["cls_3", "last_3"])
def test_more_blocks_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str) -> None:
    monkeypatch.chdir(tmp_path)
    make_repository(tmp_path)
    set_params(Path("params.yaml"), features=features)
    assert refusal(prepare) == f"params.yaml: features is {features}, but the backbone has 2 blocks"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"selection": "average", "classifier": "carried_gaussians"},
        {"selection": "average", "classifier": "class_gaussians", "classifier_views": 2, "flip": True},
        {"tuning": "layerwise", "classifier_views": 2, "flip": True},
        {"tuning": "none"},
        {"selector": "entropy", "correction": "rematch"},
        {"training": "single_stage", "correction": "arc_retention"},
        {"classifier_init": "auxiliary"},
        {"order": "joint", "selection": "latest", "classifier": "lda"},
        {"selector": "lda", "classifier": "ridge_projected"},
        {"classifier": "cls"},
        {"tuning": "diff_pruning", "lr": 0.001},
        {"classes_per_task": 1},
    ],
    ids=str,
)
def test_predict_agrees_with_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_repository(tmp_path)
    set_params(Path("params.yaml"), features="last_2", **changes)
    run_all(3)
    evaluation, manifest = artifacts.load_json(artifacts.EVALUATION), read_manifest()
    assert (evaluation["backbone"]["vectors"], evaluation["backbone"]["dim"]) == (4, 16)
    assert "| numbers that describe an image | 4 x 16 |" in artifacts.REPORT.read_text()
    assert manifest.settings.features == "last_2"
    assert artifacts.load_tensors(artifacts.test_queries_file("t1"))["queries"].shape[1] == 64

    test = artifacts.load_tensors(artifacts.TEST)
    learner = load_learner(manifest.settings, manifest.tasks)
    predicted = learner.predict(Images.from_tensors(test)).logits.argmax(1)
    right = predicted == test["labels"]
    accuracies = [float(right[test["tasks"] == task].float().mean()) for task in range(3)]
    assert accuracies == pytest.approx(evaluation["matrices"]["c_ln"][-1], abs=1e-6)


def test_another_kind_of_features_reruns_queries_and_not_stage_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_repository(tmp_path)
    prepare()
    run_stage("stage_one", "t1")
    before = artifacts.load_tensors(artifacts.bank_file("t1"))
    set_params(Path("params.yaml"), features="cls_patch")
    run_stage("queries", "t1")
    run_stage("stage_one", "t1")
    after = artifacts.load_tensors(artifacts.bank_file("t1"))
    assert all(torch.equal(before[name], after[name]) for name in before)
