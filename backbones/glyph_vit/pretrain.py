"""Pretrain the embedded backbone: a small ViT that classifies 1,433 characters and finds their ink.

It sees 433 real characters, none of them in the benchmark, and 1,000 invented ones, drawn afresh for every step. The
model predicts the class, and each patch token predicts the ink inside its patch. Without this dense target the model
stays at chance for a long time (docs/decisions.md). Muon trains the blocks' matrices, AdamW the rest.
"""

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from backbones.glyph_vit.strokes import stroke_bitmaps
from pipeline.backbone.timm_vit import VisionTransformer
from pipeline.data.sets import glyphs

HERE = Path(__file__).parent
ARCHITECTURE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 192,
    "depth": 6,
    "num_heads": 3,
    "mlp_ratio": 2.0,
}
MEAN = STD = 0.5
INVENTED = 1000
STEPS = 12_000
BATCH = 128
MUON_LR, ADAMW_LR = 0.02, 2e-3
WARMUP_STEPS = 200
INK_WEIGHT = 5.0
LOG_EVERY = 500


def dress(ink: Tensor, generator: torch.Generator, variety: float) -> Tensor:
    """Colour the ink's coverage [B, 1, H, W]: images [B, 3, H, W] in [0, 1].

    variety: 0 gives light ink on dark ground and some noise; towards 1 there is more dark ink, clouded ground and blur.
    With random polarity from the start a ViT stays at chance, so the variety grows with the steps.
    """
    count, size = len(ink), ink.shape[-1]
    dark, light = glyphs.uniform(generator, 0, 0.45, count, 3, 1, 1), glyphs.uniform(generator, 0.55, 1, count, 3, 1, 1)
    swap = torch.rand(count, 1, 1, 1, generator=generator) < 0.3 * variety
    ground, colour = torch.where(swap, light, dark), torch.where(swap, dark, light)
    cloudy = torch.rand(count, 1, 1, 1, generator=generator) < 0.4 * variety
    strength = glyphs.uniform(generator, 0, 0.15, count, 1, 1, 1)
    ground = ground + cloudy * strength * glyphs.clouds(count, generator, cells=4, size=size)
    images = ground + (colour - ground) * ink
    blurred = int(0.25 * variety * count)
    if blurred:
        images[:blurred] = glyphs.blur(images[:blurred], 0.9)
    noise = glyphs.uniform(generator, 0, 0.08, count, 1, 1, 1) * torch.randn(images.shape, generator=generator)
    return (images + noise).clamp(0, 1)


def draw_batch(
    bitmaps: Tensor, count: int, generator: torch.Generator, variety: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images [B, 3, H, W], classes [B] and ink [B, 1, H, W] of random entries of bitmaps [C, F, ...]."""
    classes = torch.randint(bitmaps.shape[0], (count,), generator=generator)
    faces = torch.randint(bitmaps.shape[1], (count,), generator=generator)
    ink = glyphs.place(bitmaps[classes, faces], generator, size=ARCHITECTURE["img_size"])
    return (dress(ink, generator, variety) - MEAN) / STD, classes, ink


@torch.inference_mode()
def accuracy(model: VisionTransformer, bitmaps: Tensor, count: int) -> float:
    """Top-1 over all classes on images of bitmaps [C, F, ...], the same images at every call."""
    generator = torch.Generator().manual_seed(99)
    correct = 0
    for _ in range(count // 256):
        images, classes, _ink = draw_batch(bitmaps, 256, generator, 1.0)
        correct += int((model(images).argmax(1) == classes).sum())
    return correct / (count // 256 * 256)


def optimizers(model: VisionTransformer, ink_head: nn.Linear) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for every other parameter."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    taken = {id(p) for p in matrices}
    others = [p for p in (*model.parameters(), *ink_head.parameters()) if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train(model: VisionTransformer, seen: Tensor, unseen: Tensor) -> list[dict[str, float]]:
    """Train in place on the faces of `seen`. Returns the log, with the accuracy on the faces of `unseen`."""
    ink_head = nn.Linear(ARCHITECTURE["embed_dim"], ARCHITECTURE["patch_size"] ** 2)
    parameters = [*model.parameters(), *ink_head.parameters()]
    optimisers = optimizers(model, ink_head)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda step: min(1, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        )
        for o in optimisers
    ]
    generator, log, started = torch.Generator().manual_seed(1), [], time.monotonic()
    for step in range(1, STEPS + 1):
        variety = min(1.0, max(0.0, (step / STEPS - 0.1) / 0.3))
        images, classes, ink = draw_batch(seen, BATCH, generator, variety)
        tokens = model.forward_features(images)  # [B, 1 + patches, D]
        target = functional.unfold(ink, ARCHITECTURE["patch_size"], stride=ARCHITECTURE["patch_size"]).transpose(1, 2)
        ink_loss = functional.binary_cross_entropy_with_logits(ink_head(tokens[:, 1:]), target)
        class_loss = functional.cross_entropy(model.forward_head(tokens), classes, label_smoothing=0.1)
        for parameter in parameters:
            parameter.grad = None
        (class_loss + INK_WEIGHT * ink_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        if step % LOG_EVERY == 0:
            row = {"step": step, "class_loss": class_loss.item(), "ink_loss": ink_loss.item()}
            log.append(row | {"unseen_faces_accuracy": accuracy(model.eval(), unseen, 2048)})
            model.train()
            speed = step * BATCH / (time.monotonic() - started)
            print(" ".join(f"{k} {v:.4g}" for k, v in log[-1].items()), f"images/s {speed:.0f}", flush=True)
    return log


def main() -> None:
    """Draw the characters, train, and write weights, log and summary beside this file."""
    _, characters = glyphs.split_characters()
    real = glyphs.bitmaps(characters, glyphs.TRAIN_FACES)
    seen = torch.cat([real, stroke_bitmaps(INVENTED, len(glyphs.TRAIN_FACES), seed=0)])
    unseen = glyphs.bitmaps(characters, glyphs.TEST_FACES)
    torch.manual_seed(0)
    model = VisionTransformer(**ARCHITECTURE, num_classes=len(seen))
    log = train(model, seen, unseen)
    with (HERE / "training_log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(log[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 4) for k, v in row.items()} for row in log)
    model.half().float()  # stored, and so measured, in half precision
    validation = accuracy(model.eval(), unseen, 8192)
    summary = {
        "characters": len(real),
        "invented": INVENTED,
        "images": STEPS * BATCH,
        "unseen_faces_accuracy": round(validation, 4),
    }
    (HERE / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    config = {"architecture": ARCHITECTURE, "mean": [MEAN] * 3, "std": [STD] * 3}
    tensors = {name: t.half().contiguous() for name, t in model.state_dict().items() if not name.startswith("head.")}
    save_file(tensors, HERE / "weights.safetensors", {"config": json.dumps(config)})
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
