"""Stage one and features against the bare loops over the same timm model: time and memory."""

import io
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.ratios import Row, compared, over_pairs, row, seconds
from harness.root import ROOT
from pipeline.backbone.build import build_backbone
from pipeline.backbone.pretrained import PRETRAINED, fetch_backbone
from pipeline.backbone.timm_vit import create_model
from pipeline.backbone.vectors import layout_of
from pipeline.backbone.vit import INFERENCE_BATCH, Backbone, Tuned
from pipeline.data.images import Images
from pipeline.machine.device import compute_device, synchronise
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.progress import Progress
from pipeline.tuning.kind import find_kind, with_places
from pipeline.tuning.loop import Schedule, tune
from pipeline.tuning.norms import NormOptions, norm_parameters

SCHEDULE = Schedule(batch_size=64, lr=0.001, epochs=1, min_crop=0.3, flip=True)
CLASSES = 10


@dataclass(frozen=True)
class Workload:
    """A backbone and random images for it."""

    name: str
    backbone: Backbone
    pixels: Tensor  # uint8 [N, H, W, 3]
    labels: Tensor
    names: list[str]  # of the LayerNorms
    schedule: Schedule = SCHEDULE
    inference_batch: int = INFERENCE_BATCH


Epoch = Callable[[Workload, list[str]], None]


def workload(name: str) -> Workload:
    """The embedded ViT at 32 pixels, ViT-Ti/16 at 96 pixels from images of 32, or one batch of ViT-S/16 at 224."""
    if name == "glyph_vit":
        weights, config = fetch_backbone(name, PRETRAINED)
    else:
        weights = create_model(name, num_classes=0).state_dict()
        config = {"timm": name, "mean": [0.5] * 3, "std": [0.5] * 3}
    size, count = {"glyph_vit": (32, 1024), "vit_tiny_patch16_224": (96, 384), "vit_small_patch16_224": (224, 64)}[name]
    return random_workload(name, weights, config, size=size, count=count)


def random_workload(
    name: str, weights: Mapping[str, Tensor], config: Mapping[str, Any], *, size: int, count: int
) -> Workload:
    """A model, and random images for it that are scaled from 32 pixels to `size`."""
    backbone = build_backbone(weights, config, image_size=size, normalize="pretrained", device=compute_device())
    pixels = torch.randint(256, (count, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    names = norm_parameters(backbone.model, NormOptions(norms="all", parameters="both"))
    return Workload(name, backbone, pixels, torch.arange(count) % CLASSES, names)


def stage_one(work: Workload, names: list[str]) -> None:
    """An epoch of tuning these parameters as the pipeline does, its input and augmentation included."""
    epoch_of(work, work.backbone, work.backbone.pretrained(names))


def stage_one_of_kind(work: Workload, tuning: str) -> Callable[[], None]:
    """The same for a kind with the options of params.yaml; the model has its places before the first call."""
    kind = find_kind(tuning)
    options = kind.options(**read_mapping(ROOT / PARAMS_FILE)[tuning])
    placed = with_places(work.backbone, kind, options)
    images, generator = Images.of_pixels(work.pixels), torch.Generator().manual_seed(0)
    return partial(epoch_of, work, placed, kind.start(placed, options, {}, images, generator))


def epoch_of(work: Workload, backbone: Backbone, start: Tuned) -> None:
    """An epoch of tuning from these tensors."""
    with redirect_stdout(io.StringIO()):
        generator = torch.Generator().manual_seed(0)
        tune(
            backbone,
            start=start,
            images=Images.of_pixels(work.pixels),
            labels=work.labels,
            schedule=work.schedule,
            generator=generator,
            progress=Progress("", 0),
        )
    synchronise(work.backbone.device)


def bare_epoch(work: Workload, names: list[str]) -> None:
    """The same epoch in a plain loop over the same timm model, with inputs ready in memory."""
    model, device = work.backbone.model, work.backbone.device
    tuned = [model.get_parameter(name).requires_grad_() for name in names]
    kept = [parameter.detach().clone() for parameter in tuned]
    head = torch.nn.Linear(model.num_features, CLASSES, device=device)
    optimiser = torch.optim.Adam([*tuned, *head.parameters()], lr=work.schedule.lr, fused=device.type == "cuda")
    inputs, labels = random_inputs(work.backbone, work.schedule.batch_size), work.labels.to(device)
    for rows in torch.arange(len(labels), device=device).split(work.schedule.batch_size):
        optimiser.zero_grad()
        with torch.autocast(device.type, work.backbone.precision, enabled=work.backbone.precision != torch.float32):
            features = model(inputs[: len(rows)])
        functional.cross_entropy(head(features.float()), labels[rows]).backward()
        optimiser.step()
    for parameter, value in zip(tuned, kept, strict=True):
        parameter.requires_grad_(requires_grad=False).copy_(value)
    synchronise(device)


def features(work: Workload) -> None:
    """Features as the pipeline computes them, from uint8 images."""
    with patch("pipeline.backbone.vit.INFERENCE_BATCH", work.inference_batch):
        work.backbone.encode(Images.of_pixels(work.pixels), work.backbone.pretrained(work.names))
    synchronise(work.backbone.device)


@torch.inference_mode()
def bare_forward(work: Workload) -> None:
    """Forward passes of batches that are ready in memory."""
    device, inputs = work.backbone.device, random_inputs(work.backbone, work.inference_batch)
    for rows in torch.arange(len(work.labels)).split(work.inference_batch):
        with torch.autocast(device.type, work.backbone.precision, enabled=work.backbone.precision != torch.float32):
            work.backbone.model(inputs[: len(rows)])
    synchronise(device)


def random_inputs(backbone: Backbone, count: int) -> Tensor:
    """A random batch on the model's device. On zeros a GPU would draw less power and run faster."""
    size, random = backbone.image_size, torch.Generator(backbone.device).manual_seed(0)
    return torch.randn(count, 3, size, size, device=backbone.device, generator=random)


def rows(name: str) -> Iterator[Row]:
    """Stage one and features against bare loops, and one against the other."""
    work = workload(name)
    yield compared(
        f"stage one / bare loop, {name}",
        "<= 1.05",
        lambda: stage_one(work, work.names),
        lambda: bare_epoch(work, work.names),
    )
    for tuning in ("ia3", "lora"):
        yield compared(
            f"stage one with tuning: {tuning} / with layernorm, {name}",
            "<= 1.15",
            stage_one_of_kind(work, tuning),
            lambda: stage_one(work, work.names),
        )
    yield compared(f"features / bare forward, {name}", "<= 1.05", lambda: features(work), lambda: bare_forward(work))
    for read, goal in (("cls_4", "<= 1.10"), ("last_4", "<= 1.10")):
        reading = replace(work, backbone=replace(work.backbone, vectors=layout_of(work.backbone.model, read)))
        yield compared(f"features: {read} / cls, {name}", goal, partial(features, reading), lambda: features(work))
    yield compared(f"stage one / features, {name}", "", lambda: stage_one(work, work.names), lambda: features(work))
    last = norm_parameters(work.backbone.model, NormOptions(norms="last_2", parameters="both"))
    yield compared(
        f"stage one of the last two blocks / of all, {name}",
        "< 1",
        lambda: stage_one(work, last),
        lambda: stage_one(work, work.names),
    )
    everything = [name for name, _ in work.backbone.model.named_parameters()]
    yield compared(
        f"stage one / full fine-tuning, {name}",
        "< 1",
        lambda: stage_one(work, work.names),
        lambda: stage_one(work, everything),
    )


def tensor_peak(work: Workload, names: list[str], epoch: Epoch) -> float:
    """MB of live tensors at the peak of an epoch, after a warm-up epoch."""
    epoch(work, names)
    if work.backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        epoch(work, names)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        epoch(work, names)
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return float(max(accumulate(change for _, change in changes))) / 2**20


def resident_peak(name: str, what: str) -> float:
    """MB by which an epoch's peak exceeds the process's memory before. It runs in a process of its own."""
    work = workload(name)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    bare_epoch(work, work.names) if what == "bare" else stage_one(work, work.names)
    return (status("VmHWM") - before) / 1024


def status(field: str) -> int:
    """A field of this process in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_rows(name: str) -> Iterator[Row]:
    """Peak memory of stage one against the bare loop and against full fine-tuning."""
    work = workload(name)
    everything = [name for name, _ in work.backbone.model.named_parameters()]
    ours, bare = (tensor_peak(work, work.names, epoch) for epoch in (stage_one, bare_epoch))
    full = tensor_peak(work, everything, stage_one)
    yield row(f"peak memory of tensors, stage one / bare loop, {name}", ours / bare, "<= 1.05", "x memory")
    yield row(f"peak memory of tensors, stage one / full fine-tuning, {name}", ours / full, "< 1", "x memory")
    if work.backbone.device.type == "cpu":
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            resident, of_bare = (pool.apply(resident_peak, (name, what)) for what in ("ours", "bare"))
        yield row(f"peak resident memory, stage one / bare loop, {name}", resident / of_bare, "", "x memory")


def step_seconds(name: str, *, keeping: bool) -> float:
    """The fastest epoch of stage one in a process of its own, which keeps freed memory or uses glibc's default."""
    if not keeping:
        patch("pipeline.machine.device.keep_freed_memory").start()
    work = workload(name)
    return min(seconds(lambda: stage_one(work, work.names)) for _ in range(3))


def allocator_rows(name: str) -> Iterator[Row]:
    """The gain on a CPU from keeping freed memory for the next step."""
    if compute_device().type == "cpu":
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            pairs = [
                [pool.apply(step_seconds, (name,), {"keeping": keeping}) for keeping in (False, True)] for _ in range(3)
            ]
        ratios = [returned / kept for returned, kept in pairs]
        yield over_pairs(f"stage one, freed memory returned / kept, {name}", "> 1", ratios)


def compile_rows(name: str) -> Iterator[Row]:
    """What stage one would gain by torch.compile, and what compiling costs first."""
    work = workload(name)
    eager = work.backbone.model
    compiled = replace(work, backbone=replace(work.backbone, model=torch.compile(eager)))
    first = seconds(lambda: stage_one(compiled, work.names))
    yield compared(
        f"stage one compiled / as it is, {name}",
        "",
        lambda: stage_one(compiled, work.names),
        lambda: stage_one(work, work.names),
    )
    epoch = statistics.median(seconds(lambda: stage_one(work, work.names)) for _ in range(3))
    yield row(f"compiling stage one / an epoch of {len(work.labels)} images, {name}", first / epoch, "", "x time")
