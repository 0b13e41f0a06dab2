"""Memory and speed of the path from disk to model: python -m benchmarks.speed.input_path.

Memory: the peak of a stage's own memory (RssAnon, sampled; the system may drop the pages of mapped files), for data
sets of 5,000 and of 50,000 images in one task, with a ViT so small that only images could make it grow. Speed: images
per second of the input path alone, compared with what a model consumes, in one process and one run.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.speed.ratios import machine_name
from benchmarks.speed.step_costs import random_inputs
from pipeline.backbone.build import build_backbone
from pipeline.backbone.pretrained import PRETRAINED, fetch_backbone
from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.data.packing import stored
from pipeline.machine.device import synchronise
from pipeline.report.text import table
from pipeline.store import artifacts

ROOT = Path(__file__).parents[2]
RESULT = Path("reports/benchmarks/input_path")
COUNTS = (5_000, 50_000)
STAGES = (["method"], ["code"], ["download"], ["split"], ["queries", "t1"], ["stage_one", "t1"])
TINY = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 1, "mlp_ratio": 1.0}
GOAL = 3.0  # times as fast as the model consumes
_REPEATS = 3
CPU = torch.device("cpu")


def write_images(folder: Path, count: int, *, size: int, suffix: str) -> list[Path]:
    """Write files of smooth noise in ten classes, with a tenth as many for testing as for training."""
    generator = np.random.default_rng(0)
    paths = []
    for index in range(count):
        coarse = generator.integers(0, 256, (max(size // 8, 4),) * 2 + (3,), dtype=np.uint8)
        split = "test" if index % 11 == 10 else "train"
        path = folder / split / f"class {index // 11 % 10}" / f"{index}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def peak_memory(command: list[str], folder: Path) -> float:
    """Peak RssAnon of a process, in MB."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DEVICE": "cpu"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        held = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
        peak = max(peak, *map(int, held), 0)
        time.sleep(0.005)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    return peak / 1024


def memory_of_stages(count: int, suffix: str) -> dict[str, float]:
    """Peak memory of each stage for `count` training images."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder / "images", count * 11 // 10, size=32 if suffix == ".png" else 80, suffix=suffix)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, folder)
        (folder / "backbones/glyph_vit").mkdir(parents=True)
        shutil.copy(ROOT / "backbones/glyph_vit/weights.safetensors", folder / "backbones/glyph_vit")
        yaml = YAML()
        params = yaml.load(folder / "params.yaml")
        params.update(dataset="image_folder", data_dir="images", num_tasks=1, epochs=1, image_size=32, flip=True)
        params.update(tasks={"t1": {"prev": "t0"}}, classes_per_task=10, task_classes=[], min_crop=0.3)
        yaml.dump(params, folder / "params.yaml")
        peaks = {}
        for stage, *arguments in STAGES:
            peaks[stage] = peak_memory([sys.executable, "-m", f"stages.{stage}", *arguments], folder)
            if stage == "download":
                weights = VisionTransformer(**TINY, num_classes=0).state_dict()
                config = {"architecture": TINY, "mean": [0.5] * 3, "std": [0.5] * 3}
                artifacts.save_weights(folder / artifacts.BACKBONE, weights, config)
        return peaks


def rate(count: int, work: Callable[[], object]) -> float:
    """Images per second, as the median of some repetitions."""
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return count / statistics.median(seconds)


def input_rate(images: Images, backbone: Backbone) -> float:
    """Shuffled batches of 64 as the model's input, without the model."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(64)

    def read() -> None:
        for pixels in images.batches(order, backbone.image_size):
            backbone.prepare(pixels)
        synchronise(backbone.device)

    return rate(len(images), read)


@torch.inference_mode()
def model_rate(backbone: Backbone, count: int) -> float:
    """Frozen forward passes of batches of 64 that are in memory: the fastest that any stage consumes."""
    inputs = random_inputs(backbone, 64)

    def consume() -> None:
        for _ in range(count // 64):
            backbone.forward(inputs, {})
        synchronise(backbone.device)

    return rate(count, consume)


def packed_images(folder: Path, *, count: int, size: int, suffix: str) -> Images:
    """Images of a packed file, made of files of this size and kind."""
    paths = write_images(folder / suffix, count, size=size, suffix=suffix)
    file = folder / f"{size}.safetensors"
    labels = torch.zeros(count, dtype=torch.int64)
    artifacts.save_images(file, stored(paths, arrays=size <= 64), {"labels": labels})
    return Images.from_tensors(artifacts.load_tensors(file))


def speeds() -> list[tuple[str, float, float]]:
    """Rows of the kind of images, images/s of the input path, and images/s of the model."""
    weights, config = fetch_backbone("glyph_vit", PRETRAINED)
    small = build_backbone(weights, config, image_size=32, normalize="pretrained", device=CPU)
    name = "vit_tiny_patch16_224"
    weights = create_model(name, num_classes=0).state_dict()
    config = {"timm": name, "mean": [0.5] * 3, "std": [0.5] * 3}
    large = build_backbone(weights, config, image_size=224, normalize="pretrained", device=CPU)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = []
        for what, suffix, size, count, backbone in (
            ("arrays of 32 px, glyph_vit", ".png", 32, 6400, small),
            ("JPEG of 256 px, ViT-Ti/16 at 224 px", ".jpg", 256, 640, large),
        ):
            images = packed_images(folder, count=count, size=size, suffix=suffix)
            rows.append((what, input_rate(images, backbone), model_rate(backbone, min(count, 1280) // 5)))
        return rows


def main() -> None:
    """Measure, print, write."""
    memory = [
        (f"{stage}, {kind}", [peaks[count][stage] for count in COUNTS])
        for kind, suffix in (("arrays", ".png"), ("encoded", ".jpg"))
        for peaks in ({count: memory_of_stages(count, suffix) for count in COUNTS},)
        for stage, *_ in STAGES
    ]
    speed = speeds()
    machine = machine_name()
    header = ("peak memory (MB)", *(f"{count:,} images" for count in COUNTS))
    text = f"""\
# From disk to model

{machine}.

{table(header, [(name, *(f"{value:.0f}" for value in values)) for name, values in memory])}

{
        table(
            ("input path alone", "images/s", "model, images/s", f"ratio (goal {GOAL:g})"),
            [(what, f"{path:,.0f}", f"{model:,.0f}", f"{path / model:.1f}") for what, path, model in speed],
        )
    }
"""
    rows = [{"name": what, "ratio": path / model, "goal": GOAL, "unit": "x model"} for what, path, model in speed]
    peaks = [{"name": name, "mb": dict(zip(map(str, COUNTS), values, strict=True))} for name, values in memory]
    artifacts.save_plain_json(RESULT.with_suffix(".json"), {"machine": machine, "rows": rows, "memory": peaks})
    artifacts.save_bytes(RESULT.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
