"""Part 1: the card, its peak rates, and its software."""

import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata

import torch

from benchmarks.gpu.measuring import Measurement, Setup, figure
from benchmarks.speed.ratios import Row, machine_name, seconds
from pipeline.machine.device import synchronise

TITLE = "The card"
_PRODUCTS = 10  # in a row, before waiting for them
_GROUPS = 7


def measurements(setup: Setup) -> Iterator[Measurement]:
    """Names, the rate of matrix products in each precision, and the memory rate."""
    device = torch.device(setup.device)
    side = setup.size(8192, 128)
    yield Measurement("names and versions", lambda: names(device))
    yield Measurement("matrix products, bf16", lambda: [rate_row("bf16", torch.bfloat16, side, device)])
    yield Measurement("matrix products, fp32", lambda: [rate_row("fp32, TF32 off", torch.float32, side, device)])
    yield Measurement("matrix products, TF32", lambda: [tf32_row(side, device)])
    yield Measurement("memory", lambda: [memory_row(setup.size(2**30, 2**22), device)])


def names(device: torch.device) -> Iterator[Row]:
    """Rows on the card and its software."""
    yield figure("machine", machine_name())
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        yield figure("card", card.name)
        yield figure("its memory", round(card.total_memory / 2**30, 1), "GiB")
        yield figure("its multiprocessors", card.multi_processor_count)
        yield figure("compute capability", f"{card.major}.{card.minor}")
        if shutil.which("nvidia-smi"):
            asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            yield figure("driver", (done.stdout.splitlines() or ["unknown"])[0])
    yield figure("Python", platform.python_version())
    yield figure("torch", str(torch.__version__))
    yield figure("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    yield figure("timm", metadata.version("timm"))


def matrix_rate(dtype: torch.dtype, side: int, device: torch.device) -> list[float]:
    """Operations per second of random square matrix products, measured several times; a multiply-add counts as two."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return [2 * side**3 / took for took in seconds_each(lambda: one @ other, device)]


def seconds_each(work: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds per call of work that a device repeats many times in a row, after a warm-up."""

    def group() -> None:
        for _ in range(_PRODUCTS):
            work()
        synchronise(device)

    group()
    return [seconds(group) / _PRODUCTS for _ in range(_GROUPS)]


def rate_row(what: str, dtype: torch.dtype, side: int, device: torch.device) -> Row:
    """The rate of a precision."""
    rates = [rate / 1e12 for rate in matrix_rate(dtype, side, device)]
    name = f"matrix products of {side} x {side}, {what}"
    return figure(name, statistics.median(rates), "TFLOP/s", spread=(min(rates), max(rates)))


def tf32_row(side: int, device: torch.device) -> Row:
    """The rate in fp32, as rounded to TF32."""
    torch.set_float32_matmul_precision("high")
    try:
        return rate_row("fp32, TF32 on", torch.float32, side, device)
    finally:
        torch.set_float32_matmul_precision("highest")


def memory_row(size: int, device: torch.device) -> Row:
    """Copies within the device's memory."""
    source, target = (torch.empty(size, dtype=torch.uint8, device=device).random_() for _ in range(2))
    rates = [2 * size / took / 1e9 for took in seconds_each(lambda: target.copy_(source), device)]
    name = f"copying {size / 2**20:g} MiB, bytes read and written"
    return figure(name, statistics.median(rates), "GB/s", spread=(min(rates), max(rates)))
