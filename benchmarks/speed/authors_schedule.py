"""The schedule of the paper's release (arXiv 2308.09610), reimplemented for comparisons only.

For each task it trains the key for some epochs, with a query pass per image; tunes the LayerNorms for some epochs; and
trains the classifier rows under selection for some epochs, with a query pass and a tuned pass per image. Then it runs
every test image of all tasks so far again, with two passes. Every epoch sees new crops. Model, precision, batches,
augmentation and grouping by task are ours: only what is computed, and how often, differs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.backbone.vit import Backbone
from pipeline.data.augment import augment
from pipeline.data.images import Images
from pipeline.inference.features import encode_inputs
from pipeline.linear.head import new_head
from pipeline.machine.device import send
from pipeline.selection.key import cosine


@dataclass(frozen=True)
class Recipe:
    """Epochs of each of the three trainings, and rates."""

    epochs: int
    batch_size: int
    lr: float  # keys and LayerNorms
    classifier_lr: float
    min_crop: float
    flip: bool


@dataclass
class Learner:
    """What has been learned so far."""

    keys: list[Tensor] = field(default_factory=list)  # [D] each
    bank: dict[str, Tensor] = field(default_factory=dict)  # [T, D] each
    weights: list[Tensor] = field(default_factory=list)  # [classes, D] each
    biases: list[Tensor] = field(default_factory=list)


def run(
    backbone: Backbone,
    recipe: Recipe,
    names: list[str],
    tasks: list[tuple[Images, Tensor]],
    tests: list[tuple[Images, Tensor]],
    *,
    seed: int,
) -> float:
    """Learn the tasks in turn and evaluate after each. Returns the final average accuracy.

    names: names of the tuned parameters; tasks: training images and labels per task, from 0 within the task; tests:
    test images and labels per task, from 0 over all classes.
    """
    learner, generator = Learner(), torch.Generator().manual_seed(seed)
    accuracy = 0.0
    for task, (images, labels) in enumerate(tasks):
        learner.keys.append(train_key(backbone, recipe, images, generator))
        tune(backbone, recipe, learner, names, images, labels, generator)
        rectify(backbone, recipe, learner, images, labels, generator)
        accuracy = sum(evaluate(backbone, learner, *test) for test in tests[: task + 1]) / (task + 1)
    return accuracy


def batches(
    backbone: Backbone, recipe: Recipe, images: Images, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices and crops of each batch of every epoch."""
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator).split(recipe.batch_size)
        for rows, pixels in zip(order, images.batches(order, backbone.image_size), strict=True):
            inputs = backbone.prepare(pixels)
            yield rows, augment(inputs, generator, min_crop=recipe.min_crop, flip=recipe.flip)


def train_key(backbone: Backbone, recipe: Recipe, images: Images, generator: torch.Generator) -> Tensor:
    """The key, by Adam from a random start."""
    dim = backbone.model.num_features
    key = (2 * torch.rand(dim, generator=generator) - 1).to(backbone.device).requires_grad_()
    optimiser = torch.optim.Adam([key], lr=recipe.lr)
    for _, inputs in batches(backbone, recipe, images, generator):
        with torch.no_grad():
            queries = backbone.forward(inputs, {})
        optimiser.zero_grad()
        (-cosine(queries, key[None]).mean()).backward()
        optimiser.step()
    return key.detach().cpu()


def tune(  # noqa: PLR0913, PLR0917
    backbone: Backbone,
    recipe: Recipe,
    learner: Learner,
    names: list[str],
    images: Images,
    labels: Tensor,
    generator: torch.Generator,
) -> None:
    """The task's LayerNorms, from those of the task before, with an auxiliary head."""
    start = {name: rows[-1] for name, rows in learner.bank.items()} or backbone.pretrained(names)
    layernorms = {name: tensor.to(backbone.device, copy=True).requires_grad_() for name, tensor in start.items()}
    head = new_head(int(labels.max()) + 1, backbone.model.num_features, generator)
    auxiliary = [tensor.to(backbone.device).requires_grad_() for tensor in (head.weight, head.bias)]
    tuned = [*layernorms.values(), *auxiliary]
    optimiser = torch.optim.Adam(tuned, lr=recipe.lr, fused=backbone.device.type == "cuda")
    for rows, inputs in batches(backbone, recipe, images, generator):
        logits = functional.linear(backbone.forward(inputs, layernorms), *auxiliary)
        optimiser.zero_grad()
        functional.cross_entropy(logits, send(labels[rows], backbone.device)).backward()
        optimiser.step()
    for name, tensor in layernorms.items():
        new = tensor.detach().cpu()[None]
        learner.bank[name] = torch.cat([learner.bank[name], new]) if name in learner.bank else new


def select_and_encode(backbone: Backbone, learner: Learner, inputs: Tensor) -> Tensor:
    """A query pass, and a tuned pass under the selected LayerNorms: [B, D]."""
    with torch.inference_mode():
        queries = backbone.forward(inputs, {}).cpu()
        selected = cosine(queries, torch.stack(learner.keys)).argmax(1)
        return encode_inputs(backbone, inputs, selected, learner.bank)


def rectify(
    backbone: Backbone, recipe: Recipe, learner: Learner, images: Images, labels: Tensor, generator: torch.Generator
) -> None:
    """Classifier rows of the task's classes, on features as at inference."""
    head = new_head(int(labels.max()) + 1, backbone.model.num_features, generator)
    weight, bias = head.weight.requires_grad_(), head.bias.requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=recipe.classifier_lr)
    for rows, inputs in batches(backbone, recipe, images, generator):
        features = select_and_encode(backbone, learner, inputs).clone()
        optimiser.zero_grad()
        functional.cross_entropy(functional.linear(features, weight, bias), labels[rows]).backward()
        optimiser.step()
    learner.weights.append(weight.detach())
    learner.biases.append(bias.detach())


def evaluate(backbone: Backbone, learner: Learner, images: Images, labels: Tensor) -> float:
    """Accuracy among the classes seen so far."""
    features = torch.cat([select_and_encode(backbone, learner, inputs) for inputs in backbone.inputs(images)])
    logits = functional.linear(features, torch.cat(learner.weights), torch.cat(learner.biases))
    return float((logits.argmax(1) == labels).float().mean())
