"""Part 2: stage one and features of ViT-B/16 at 224 pixels against bare loops, in each precision and batch size."""

import statistics
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.card import matrix_rate
from benchmarks.gpu.measuring import Measurement, Setup, figure
from benchmarks.speed.ratios import Row, in_turn, seconds
from benchmarks.speed.step_costs import (
    SCHEDULE,
    Workload,
    bare_epoch,
    bare_forward,
    features,
    random_workload,
    stage_one,
    tensor_peak,
)
from pipeline.backbone.timm_vit import VisionTransformer, create_model
from pipeline.data.images import Images
from pipeline.progress import Progress
from pipeline.tuning.loop import tune
from pipeline.tuning.state import Training

TITLE = "ViT-B/16 at 224 px, random weights"
NAME = "vit_base_patch16_224"
TINY: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 1, "mlp_ratio": 1.0}
STATISTICS = {"mean": [0.5] * 3, "std": [0.5] * 3}
PASSES = {"stage one": 2, "bare loop": 2, "full fine-tuning": 3, "features": 1, "bare forward": 1}  # per image
_ROUNDS = 5
_IMAGES = 2048


def measurements(setup: Setup) -> Iterator[Measurement]:
    """The most important measurements first, those that compile last."""
    work = model_workload(setup)
    rate = statistics.median(matrix_rate(torch.bfloat16, setup.size(8192, 128), work.backbone.device))
    batches = setup.size((128, 64, 256), (8, 4, 16))
    works = {batch: sized(work, batch, setup.size(_IMAGES, 2 * batch)) for batch in batches}
    first = works[batches[0]]
    yield Measurement("a step that waits for nothing", lambda: waits(first))
    for batch, of_batch in works.items():
        yield Measurement(f"bf16, batches of {batch}", partial(speeds, of_batch, f"bf16, batches of {batch}", rate))
        yield Measurement(f"memory, batches of {batch}", partial(memory, of_batch))
    yield Measurement("kernel launches", lambda: launches(works[batches[1]]))
    for what, matmul in (("fp32, TF32 off", "highest"), ("fp32, TF32 on", "high")):
        few = sized(work, batches[0], setup.size(_IMAGES // 4, batches[0]))
        single = replace(few, backbone=replace(few.backbone, precision=torch.float32))
        yield Measurement(what, partial(in_float32, single, what, matmul, rate))
    options = setup.size({}, {"backend": "aot_eager"})  # on a CPU the default backend compiles for a minute
    graphs = setup.size({"mode": "reduce-overhead"}, {"backend": "aot_eager"})
    why_not = "triton is missing" if setup.device == "cuda" and "triton" in setup.missing else ""
    of_graphs = works[batches[1]]
    yield Measurement("torch.compile", lambda: compiled(first, "torch.compile", rate, options), why_not)
    yield Measurement("CUDA graphs", lambda: compiled(of_graphs, "CUDA graphs", rate, graphs), why_not)


def model_workload(setup: Setup) -> Workload:
    """ViT-B/16, or a tiny ViT, in bfloat16, and random images."""
    if setup.device == "cpu":
        model, size, config = VisionTransformer(**TINY, num_classes=0), 32, {"architecture": TINY, **STATISTICS}
    else:
        model, size, config = create_model(NAME, num_classes=0), 224, {"timm": NAME, **STATISTICS}
    work = random_workload(NAME, model.state_dict(), config, size=size, count=_IMAGES)
    return replace(work, backbone=replace(work.backbone, precision=torch.bfloat16))


def sized(work: Workload, batch: int, count: int) -> Workload:
    """The same workload in whole batches of another size, so that nothing is compiled twice."""
    schedule = replace(SCHEDULE, batch_size=batch)
    pixels, labels = work.pixels[:count], work.labels[:count]
    return replace(work, pixels=pixels, labels=labels, schedule=schedule, inference_batch=batch)


class Watched(Progress):
    """Allows waiting for the GPU at the end of an epoch, which fetches the loss."""

    def end_epoch(self, epoch: int, epochs: int, *, remedy: str) -> None:
        """End the epoch as usual."""
        complain(self.device, is_wrong=False)
        super().end_epoch(epoch, epochs, remedy=remedy)

    device = torch.device("cpu")


def complain(device: torch.device, *, is_wrong: bool) -> None:
    """Set whether CUDA raises an error when the host waits for it."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error" if is_wrong else "default")


def waits(work: Workload) -> Iterator[Row]:
    """Test whether the host waits for the GPU within the steps of an epoch or the batches of a pass."""
    start, images = work.backbone.pretrained(work.names), Images.of_pixels(work.pixels)
    device = work.backbone.device
    progress = Watched("", 0)
    progress.device = device

    def epochs(_: Training, count: int) -> Iterator[int]:
        for epoch in range(count):
            complain(device, is_wrong=True)
            yield epoch

    def steps() -> None:
        tune(
            work.backbone,
            start=start,
            images=images,
            labels=work.labels,
            schedule=work.schedule,
            generator=torch.Generator().manual_seed(0),
            progress=progress,
            epochs=epochs,
        )

    def batches() -> None:
        complain(device, is_wrong=True)
        work.backbone.encode(images, start)

    for name, run in (("stage one", steps), ("features", batches)):
        yield figure(f"{name}: the host waits for the GPU within a pass", waiting(run, device), goal="no")


def waiting(run: Callable[[], None], device: torch.device) -> str:
    """Whether the host waits, and where."""
    if device.type == "cpu":
        run()
        return "no GPU to wait for"
    try:
        run()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        return f"yes: {Path(frames[-1].filename).name}, line {frames[-1].lineno}"
    finally:
        complain(device, is_wrong=False)
    return "no"


def speeds(work: Workload, what: str, rate: float) -> Iterator[Row]:
    """Images per second of our code, bare loops and full fine-tuning, measured in turn."""
    everything = [name for name, _ in work.backbone.model.named_parameters()]
    works: dict[str, Callable[[], object]] = {
        "stage one": lambda: stage_one(work, work.names),
        "bare loop": lambda: bare_epoch(work, work.names),
        "full fine-tuning": lambda: stage_one(work, everything),
        "features": lambda: features(work),
        "bare forward": lambda: bare_forward(work),
    }
    took = in_turn(works, _ROUNDS)
    yield from rates(work, what, rate, took)
    for name, other, goal in (
        ("stage one", "bare loop", "<= 1.05"),
        ("features", "bare forward", "<= 1.05"),
        ("stage one", "full fine-tuning", "< 1"),
    ):
        ratios = [one / two for one, two in zip(took[name], took[other], strict=True)]
        spread = (min(ratios), max(ratios))
        yield figure(f"{name} / {other}, {what}", statistics.median(ratios), "x time", goal=goal, spread=spread)


def rates(work: Workload, what: str, rate: float, took: dict[str, list[float]]) -> Iterator[Row]:
    """Images per second, and their operations as a share of the card's rate for matrix products alone."""
    flops, count = work.backbone.flops({}), len(work.labels)
    for name, times in took.items():
        speed = count / statistics.median(times)
        spread = (count / max(times), count / min(times))
        share = 100 * speed * PASSES[name] * flops / rate
        goal = ">= 50" if name in ("stage one", "features") and what.startswith("bf16") else ""
        yield figure(f"{name}, {what}", speed, "images/s", spread=spread)
        yield figure(f"{name}, {what}: share of the bf16 rate", share, "%", goal=goal)


def memory(work: Workload) -> Iterator[Row]:
    """Peak memory of a step's tensors, without the model and other resident tensors."""
    everything = [name for name, _ in work.backbone.model.named_parameters()]
    batch = work.schedule.batch_size
    for name, names, epoch in (
        ("stage one", work.names, stage_one),
        ("bare loop", work.names, bare_epoch),
        ("full fine-tuning", everything, stage_one),
        ("features", work.names, lambda work, _: features(work)),
    ):
        peak = tensor_peak(work, names, epoch)
        yield figure(f"peak memory of {name}, batches of {batch}", peak, "MiB")


def launches(work: Workload) -> Iterator[Row]:
    """A step of very few images takes the time of its kernel launches. Near 1, launches limit large steps, too."""
    batch = work.schedule.batch_size
    few = sized(work, max(batch // 8, 1), len(work.labels) // 8)
    took = in_turn({"few": lambda: stage_one(few, few.names), "many": lambda: stage_one(work, work.names)}, _ROUNDS)
    ratios = [one / many for one, many in zip(took["few"], took["many"], strict=True)]
    name = f"a step of {few.schedule.batch_size} images / of {batch}, stage one"
    yield figure(name, statistics.median(ratios), "x time", goal="< 0.5", spread=(min(ratios), max(ratios)))


def in_float32(work: Workload, what: str, matmul: str, rate: float) -> Iterator[Row]:
    """Stage one and features without bfloat16."""
    torch.set_float32_matmul_precision(matmul)
    try:
        works = {"stage one": lambda: stage_one(work, work.names), "features": lambda: features(work)}
        yield from rates(work, what, rate, in_turn(works, 3))
    finally:
        torch.set_float32_matmul_precision("highest")


def compiled(work: Workload, what: str, rate: float, options: dict[str, Any]) -> Iterator[Row]:
    """The cost of compiling, and the speed of compiled stage one and features compared with eager ones."""
    batch = f"batches of {work.schedule.batch_size}"
    backbone = replace(work.backbone, model=torch.compile(work.backbone.model, **options))
    quick = replace(work, backbone=backbone)
    both: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "stage one": (lambda: stage_one(quick, work.names), lambda: stage_one(work, work.names)),
        "features": (lambda: features(quick), lambda: features(work)),
    }
    for name, (one, other) in both.items():
        yield figure(f"{name}, {batch}, {what}: the first epoch, compiling included", seconds(one), "s")
        took = in_turn({"compiled": one, "eager": other}, _ROUNDS)
        ratios = [eager / fast for eager, fast in zip(took["eager"], took["compiled"], strict=True)]
        yield from rates(work, f"bf16, {batch}, {what}", rate, {name: took["compiled"]})
        spread = (min(ratios), max(ratios))
        yield figure(f"{name}, {batch}: eager / {what}", statistics.median(ratios), "x time", spread=spread)
