"""The embedded benchmark: 100 characters in ten renditions, a cross-domain sequence that needs no download.

Each rendition has its own ten characters and draws them in a way that the backbone's pretraining never did: barely
visible, behind bars, as relief, dithered, ... A task of ten classes is one rendition, so tasks differ from the
pretraining and from each other, as in the 5-Datasets benchmark. Training and test images come from different faces.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.image_set import ImageSet
from pipeline.data.sets.glyphs import TEST_FACES, TRAIN_FACES, bitmaps, blur, clouds, place, uniform
from pipeline.seeds import generator

SIZE = 32
TRAIN_PER_CLASS = 40
TEST_PER_CLASS = 40
SEED = 0  # the same data set for every `seed` of params.yaml, which only orders its classes

Rendition = Callable[[Tensor, torch.Generator], Tensor]  # bitmaps [B, CANVAS, CANVAS] -> images [B, 3, SIZE, SIZE]


def _ink(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    return place(glyphs, rng, size=SIZE)


def _paint(ink: Tensor, rng: torch.Generator) -> Tensor:
    """Ink [B, 1, H, W] in a random light colour on a random dark ground."""
    ground, colour = uniform(rng, 0, 0.45, len(ink), 3, 1, 1), uniform(rng, 0.55, 1, len(ink), 3, 1, 1)
    return ground + (colour - ground) * ink


def _noisy(images: Tensor, rng: torch.Generator, deviation: float) -> Tensor:
    return images + deviation * torch.randn(images.shape, generator=rng)


def faint(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Hardly lighter or darker than the ground."""
    ground, contrast = uniform(rng, 0.2, 0.8, len(glyphs), 3, 1, 1), uniform(rng, 0.07, 0.15, len(glyphs), 1, 1, 1)
    sign = torch.randint(0, 2, contrast.shape, generator=rng) * 2 - 1
    return _noisy(ground + sign * contrast * _ink(glyphs, rng), rng, 0.05)


def speckled(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Black and white, with 18 % of the pixels swapped."""
    ink = _ink(glyphs, rng) > 0.5
    swapped = torch.rand(ink.shape, generator=rng) < 0.18
    return (ink ^ swapped).float().expand(-1, 3, -1, -1)


def barred(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Behind upright bars of one colour."""
    images = _noisy(_paint(_ink(glyphs, rng), rng), rng, 0.03)
    columns = torch.arange(SIZE) + uniform(rng, 0, 10, len(glyphs), 1, 1, 1)
    return torch.where(columns % 10 < 3.5, uniform(rng, 0, 1, len(glyphs), 3, 1, 1), images)


def clouded(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Under strong coloured clouds."""
    return _noisy(_paint(_ink(glyphs, rng), rng) + 0.4 * clouds(len(glyphs), rng, cells=8, size=SIZE), rng, 0.05)


def relief(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Turned by 30 degrees; only the lit and shaded edges are drawn."""
    ink = place(glyphs, rng, size=SIZE, turn=-30)
    edges = ink.roll((1, 1), (2, 3)) - ink.roll((-1, -1), (2, 3))
    return _noisy(uniform(rng, 0.3, 0.7, len(glyphs), 3, 1, 1) + 0.3 * edges, rng, 0.06)


def hatched(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Woven into fine stripes of a random direction."""
    angle, phase = uniform(rng, 0, math.pi, len(glyphs), 1, 1, 1), uniform(rng, 0, 2 * math.pi, len(glyphs), 1, 1, 1)
    steps = torch.arange(SIZE)
    across = steps[:, None] * angle.sin() + steps * angle.cos()  # [B, 1, SIZE, SIZE]
    stripes = ((1.6 * across + phase).sin() > 0).float()
    return _noisy(_paint(0.35 * stripes + 0.65 * _ink(glyphs, rng) * (1 - stripes), rng), rng, 0.05)


def dithered(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Blurred, then each pixel is black or white at random, with the probability given by its grey."""
    grey = 0.15 + 0.7 * blur(_ink(glyphs, rng), 1.0)
    return (torch.rand(grey.shape, generator=rng) < grey).float().expand(-1, 3, -1, -1)


def small(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """At little more than half the size, anywhere in the image."""
    identity = 1.9 * torch.eye(2).expand(len(glyphs), 2, 2)
    affine = torch.cat([identity, uniform(rng, -0.7, 0.7, len(glyphs), 2, 1)], 2)
    grid = functional.affine_grid(affine, [len(glyphs), 1, SIZE, SIZE], align_corners=False)
    ink = functional.grid_sample(place(glyphs, rng, size=48), grid, align_corners=False)
    return _noisy(_paint(ink, rng), rng, 0.03)


def hidden(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """A square of one colour lies over a quarter of the image."""
    images = _noisy(_paint(_ink(glyphs, rng), rng), rng, 0.03)
    y, x = uniform(rng, 4, 28, 2, len(glyphs), 1, 1, 1)
    steps = torch.arange(SIZE)
    covered = ((steps[:, None] - y).abs() < 8) & ((steps - x).abs() < 8)
    return torch.where(covered, uniform(rng, 0, 1, len(glyphs), 3, 1, 1), images)


def wavy(glyphs: Tensor, rng: torch.Generator) -> Tensor:
    """Bent along sine waves in both directions."""
    axis = torch.linspace(-1, 1, SIZE)
    phase_x, phase_y = uniform(rng, 0, 2 * math.pi, 2, len(glyphs), 1, 1)
    x = axis + 0.13 * (7 * axis[:, None] + phase_x).sin()
    y = axis[:, None] + 0.13 * (7 * axis + phase_y).sin()
    ink = functional.grid_sample(_ink(glyphs, rng), torch.stack([x, y], -1), align_corners=False)
    return _noisy(_paint(ink, rng), rng, 0.03)


RENDITIONS: tuple[Rendition, ...] = (
    faint,
    speckled,
    barred,
    clouded,
    relief,
    hatched,
    dithered,
    small,
    hidden,
    wavy,
)

# The characters of each rendition. They are written down: if they were drawn from the fonts' list of characters, one
# new character there would change them all. The pretraining of the embedded backbone never saw them (a test compares).
CHARACTERS = (
    "gტლɛɭΨɵEɗɴ",
    "ƭձɣҘძɻɿΞΓƍ",
    "бyϚჩȶრⱵτЄɐ",  # noqa: RUF001
    "ƏԴæӋᴝւчлՋլ",
    "ɬҪҥ5sნⱾ8ɧђ",
    "єӄԼɑƂTȺяʎҬ",  # noqa: RUF001
    "ƴμҭДՉʕΔħՈȥ",
    "ƚɮSɹэʧɷф7Ƙ",
    "ʡ2fɼƀկƜԵУⱶ",  # noqa: RUF001
    "ՖƣʚYѢɫюǶⱯՂ",
)


def draw_glyphs() -> ImageSet:
    """Draw the whole data set: 100 classes, each a character in one rendition. The images are always the same."""
    classes, groups = [], []
    images: dict[str, list[Tensor]] = {"train": [], "test": []}
    for index, (rendition, own) in enumerate(zip(RENDITIONS, CHARACTERS, strict=True)):
        groups += [rendition.__name__] * len(own)
        classes += [f"{rendition.__name__} {character}" for character in own]
        for split, faces, count in (("train", TRAIN_FACES, TRAIN_PER_CLASS), ("test", TEST_FACES, TEST_PER_CLASS)):
            images[split].append(_render(rendition, bitmaps(list(own), faces), count, generator(SEED, split, index)))
    numbers = torch.arange(len(classes))
    return ImageSet(
        classes=classes,
        groups=groups,
        train_images=torch.cat(images["train"]),
        train_labels=numbers.repeat_interleave(TRAIN_PER_CLASS),
        test_images=torch.cat(images["test"]),
        test_labels=numbers.repeat_interleave(TEST_PER_CLASS),
    )


DOMAIN_CHARACTERS = [own[0] for own in CHARACTERS]


def draw_glyph_domains() -> ImageSet:
    """Draw the domain form: ten characters, each in every rendition. A rendition is a domain."""
    count = len(DOMAIN_CHARACTERS)
    images: dict[str, list[Tensor]] = {"train": [], "test": []}
    sizes = {"train": TRAIN_PER_CLASS, "test": TEST_PER_CLASS}
    for index, rendition in enumerate(RENDITIONS):
        for split, faces in (("train", TRAIN_FACES), ("test", TEST_FACES)):
            random = generator(SEED, split, "domain", index)
            images[split].append(_render(rendition, bitmaps(DOMAIN_CHARACTERS, faces), sizes[split], random))
    labels = {
        split: torch.arange(count).repeat_interleave(size).repeat(len(RENDITIONS)) for split, size in sizes.items()
    }
    domains = {split: torch.arange(len(RENDITIONS)).repeat_interleave(count * size) for split, size in sizes.items()}
    return ImageSet(
        classes=list(DOMAIN_CHARACTERS),
        groups=[""] * count,
        train_images=torch.cat(images["train"]),
        train_labels=labels["train"],
        test_images=torch.cat(images["test"]),
        test_labels=labels["test"],
        domains=[rendition.__name__ for rendition in RENDITIONS],
        train_domains=domains["train"],
        test_domains=domains["test"],
    )


def _render(rendition: Rendition, glyphs: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`count` images of each character of [C, F, CANVAS, CANVAS], in random faces: uint8 [C * count, SIZE, SIZE, 3]."""
    character = torch.arange(len(glyphs)).repeat_interleave(count)
    face = torch.randint(glyphs.shape[1], character.shape, generator=rng)
    images = rendition(glyphs[character, face], rng).clamp(0, 1)
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
