"""Stage one against a bare loop over a plain timm model; what it leaves alone; what it says when it diverges."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.tiny import TINY, pretrained_layernorms, random_images, tiny_weights
from pipeline.backbone.timm_vit import VisionTransformer
from pipeline.backbone.vit import Backbone
from pipeline.data.augment import Views, augment, draw_crops
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.tuning import loop
from pipeline.tuning.kind import find_kind
from pipeline.tuning.loop import LEAST_TO_DROP, Schedule, too_few_steps

SCHEDULE = Schedule(batch_size=8, lr=0.02, epochs=3, min_crop=1.0, flip=False)
IMAGES, LABELS = random_images(20), torch.arange(20) % 4


def tune(backbone: Backbone, schedule: Schedule = SCHEDULE, seed: int = 0) -> dict[str, torch.Tensor]:
    layernorms, head = loop.tune(
        backbone,
        start=pretrained_layernorms(backbone),
        images=Images.of_pixels(IMAGES),
        labels=LABELS,
        schedule=schedule,
        generator=torch.Generator().manual_seed(seed),
        progress=Progress("test", 0),
    )
    return layernorms | {"auxiliary_head.weight": head.weight, "auxiliary_head.bias": head.bias}


def bare_loop(seed: int) -> dict[str, torch.Tensor]:
    """The same training with a plain timm model whose own LayerNorms require gradients."""
    model = VisionTransformer(**TINY, num_classes=0).eval().requires_grad_(False)
    model.load_state_dict(tiny_weights())
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(TINY["embed_dim"], 4)
    nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
    nn.init.zeros_(head.bias)
    head.double()
    norms = {
        f"{module_name}.{name}": parameter.requires_grad_()
        for module_name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, parameter in module.named_parameters()
    }
    optimiser = torch.optim.Adam([*norms.values(), *head.parameters()], lr=SCHEDULE.lr)
    for _ in range(SCHEDULE.epochs):
        for rows in torch.randperm(20, generator=generator).split(SCHEDULE.batch_size):
            inputs = (IMAGES[rows].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
            optimiser.zero_grad()
            functional.cross_entropy(head(model(inputs).double()), LABELS[rows]).backward()
            optimiser.step()
    trained = norms | {f"auxiliary_head.{name}": parameter for name, parameter in head.named_parameters()}
    return {name: parameter.detach().float() for name, parameter in trained.items()}


def test_equals_a_bare_loop_bit_for_bit(backbone: Backbone) -> None:
    expected = bare_loop(seed=3)
    tuned = tune(backbone, seed=3)
    assert tuned.keys() == expected.keys()
    assert all(torch.equal(tuned[name], expected[name]) for name in expected)


def test_changes_every_layernorm_and_nothing_else(backbone: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    tuned = tune(backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.model.state_dict().items())
    assert all(not torch.equal(tuned[name], start) for name, start in pretrained_layernorms(backbone).items())
    assert not any(tensor.requires_grad for tensor in tuned.values())


def test_lowers_the_loss(backbone: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    tune(backbone, replace(SCHEDULE, epochs=15))
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < 0.9 * losses[0]


def test_repeats_bit_for_bit_and_depends_on_the_seed(backbone: Backbone) -> None:
    cropped = replace(SCHEDULE, min_crop=0.3, flip=True)
    first, second, other = tune(backbone, cropped), tune(backbone, cropped), tune(backbone, cropped, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_loss_that_is_not_finite_names_epoch_and_remedy(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"^test: the loss is not finite in epoch \d of 9: lower lr \(1e\+30\)$"):
        tune(backbone, replace(SCHEDULE, lr=1e30, epochs=9))


def test_crops_keep_shape_and_stay_inside_the_image() -> None:
    inputs = torch.rand(50, 3, 16, 16)
    crops = augment(inputs, torch.Generator().manual_seed(0), min_crop=0.1, flip=False)
    assert crops.shape == inputs.shape
    assert crops.min() >= inputs.min()
    assert crops.max() <= inputs.max()
    ramp = torch.linspace(0, 1, 16).expand(500, 3, 16, 16)  # a crop of a ramp spans the share of the width it keeps
    row = augment(ramp, torch.Generator().manual_seed(0), min_crop=0.25, flip=False)[:, 0, 8]
    width = row[:, -1] - row[:, 0]
    assert 0.4 < width.min() < 0.6
    assert width.max() <= 1.0001


def test_a_crop_of_everything_is_the_image() -> None:
    inputs = torch.rand(2, 3, 16, 16)
    square = Views(draw_crops(2, torch.Generator().manual_seed(0), min_area=1.0), None).of(inputs)
    assert (square - inputs).abs().mean() < 0.2  # only the aspect is random


def test_flips_mirror_half_of_the_images_whole() -> None:
    inputs = torch.rand(400, 3, 4, 4)
    flipped = augment(inputs, torch.Generator().manual_seed(0), min_crop=1.0, flip=True)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, inputs, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flipped, inputs, strict=True)]
    assert all(one != other for one, other in zip(mirrored, same, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize(
    ("images", "batch_size", "lr", "epochs", "tuning", "advice"),
    [
        (
            48,
            64,
            0.01,
            5,
            "layernorm",
            "5 at lr 0.01 move a value that begins near 1 by at most 0.05: set batch_size",
        ),
        (48, 64, 0.01, 5, "layernorm", "set batch_size: 12, or epochs: 20, or a higher lr"),
        (1, 64, 0.001, 5, "layernorm", "by at most 0.005: set epochs: 200, or a higher lr"),
        (48, 64, 0.0001, 5, "full", "begins near 0.02 by at most 0.0005"),
        (48, 12, 0.01, 5, "layernorm", ""),
        (48, 64, 0.01, 20, "layernorm", ""),
        (48, 64, 0.05, 5, "layernorm", ""),
        (400, 64, 0.01, 5, "layernorm", ""),  # the default
        (400, 16, 0.005, 2, "layernorm", ""),  # preset fast
        (5000, 128, 0.0025, 5, "layernorm", ""),  # the paper's
        (2400, 128, 0.005, 5, "layernorm", ""),
        (48, 64, 0.001, 5, "full", ""),
    ],
)
def test_steps_that_cannot_change_anything_are_noticed(
    images: int, batch_size: int, lr: float, epochs: int, tuning: str, advice: str
) -> None:
    schedule = Schedule(batch_size=batch_size, lr=lr, epochs=epochs, min_crop=1.0, flip=False)
    warning = too_few_steps(images, schedule, find_kind(tuning).size)
    assert advice in warning
    assert bool(advice) == bool(warning)


@pytest.mark.parametrize("epochs", range(1, 31))
def test_a_rate_that_drops_does_so_for_the_last_tenth_of_the_epochs(epochs: int) -> None:
    """With fewer than ten there is no such epoch, which the first stage refuses."""
    schedule = Schedule(batch_size=1, lr=0.1, epochs=epochs, min_crop=1.0, flip=False, lr_schedule="drop")
    rates = [schedule.rate(epoch) for epoch in range(epochs)]
    assert rates.count(0.1) == epochs // 10
    assert rates == sorted(rates, reverse=True)
    assert (0.1 in rates) == (epochs >= LEAST_TO_DROP)
