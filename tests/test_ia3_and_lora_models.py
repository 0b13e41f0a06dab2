"""Factors and thin matrices of several tasks, their mean, and other models and types than the tiny ViT in float32."""

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.thin_layers import CHOICES, IMAGES, D, chosen, somewhere, start_of
from harness.tiny import random_images
from pipeline.backbone.timm_vit import create_model
from pipeline.backbone.vit import Backbone
from pipeline.errors import UserError
from pipeline.inference.features import encode_inputs, encode_selected
from pipeline.inference.method import Method
from pipeline.params import Record
from pipeline.progress import Progress
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.selector import find_selector
from pipeline.tuning.kind import Kind, with_places
from pipeline.tuning.kinds import lora
from pipeline.tuning.kinds.lora import Options


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
