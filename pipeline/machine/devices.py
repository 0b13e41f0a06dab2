"""Runs one stage on several devices: `DEVICES=4 dvc repro`.

Each device has a process that runs the whole stage on the same files. It computes its part of every training batch,
and gradients are summed over the devices. It also computes its part of the features, which are then joined. Only the
first process prints and writes. Lightning Fabric starts the processes, unless torchrun has started them, on one node or
several; torch.distributed moves the numbers. With one device none of this is loaded and nothing is copied.
"""

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from pipeline.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

for _name in ("distributed", "rank_zero"):  # the number of processes does not matter to callers that requested them
    logging.getLogger(f"lightning_fabric.utilities.{_name}").setLevel(logging.WARNING)


def on_all_devices(main: Callable[..., None]) -> Callable[..., None]:
    """Run a stage's main on the devices that the variable DEVICES or torchrun requests; by default in this process.

    This is not a DVC parameter: the results of several devices differ from those of one only by the rounding of sums.
    The returned function raises UserError for devices that do not exist.
    """

    @functools.wraps(main)
    def everywhere(*arguments: object, **options: object) -> None:
        work = functools.partial(main, *arguments, **options)
        started = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # by torchrun
        count = started or _wanted()
        if count > 1:
            _launch(work, count, started=bool(started))
        else:
            work()

    return everywhere


def _launch(work: Callable[[], None], count: int, *, started: bool) -> None:
    """Run `work` in all processes. count: processes of this node; started: whether torchrun has started them."""
    from lightning_fabric import Fabric  # noqa: PLC0415  (takes a second)
    from lightning_fabric.strategies import DDPStrategy  # noqa: PLC0415

    # Where Slurm is installed, Lightning warns that `srun` is not used, although nobody wants it to be.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    on_gpus = os.environ.get("DEVICE") != "cpu" and torch.cuda.is_available()
    fabric = Fabric(
        accelerator="cuda" if on_gpus else "cpu",
        devices=count,
        num_nodes=int(os.environ["WORLD_SIZE"]) // count if started else 1,
        strategy=DDPStrategy(
            start_method="popen" if started else "spawn",
            process_group_backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        ),
    )
    if error := fabric.launch(_work, work):
        raise error


def _wanted() -> int:
    text = os.environ.get("DEVICES", "1")
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"DEVICES={text!r} is not a number of devices: unset it, or set it to 2 or more")
    if int(text) > 1 and os.environ.get("DEVICE") != "cpu":
        if "DEVICE" in os.environ:
            raise UserError(f"DEVICES={text} contradicts DEVICE: unset DEVICE; CUDA_VISIBLE_DEVICES chooses among GPUs")
        if int(text) > torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise UserError(f"DEVICES={text}, but this machine has {there} GPU{'s' * (there != 1)}: set DEVICES=1")
    return int(text)


def _work(fabric: "Fabric", work: Callable[[], None]) -> Exception | None:
    """Work in the process of one device. The first returns its error; a user's mistake occurs on every device."""
    try:
        with contextlib.ExitStack() as stack:
            if not fabric.is_global_zero:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
            work()
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if not fabric.is_global_zero and not isinstance(error, UserError):
            raise
        return error
    return None


def size() -> int:
    """How many devices run this stage."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process's device; 0 is the first."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def wait() -> None:
    """Wait until all devices get here."""
    if size() > 1:
        distributed.barrier()


def part_of_batch(count: int) -> tuple[slice, float]:
    """The images of a training batch that this device computes, and their weight in the batch's mean.

    If a batch has fewer images than there are devices, each device computes the whole batch.
    """
    if count < size():
        return slice(0, count), 1 / size()
    first, last = (count * number // size() for number in (rank(), rank() + 1))
    return slice(first, last), (last - first) / count


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the devices, in one message with the highest precision among them."""
    if size() > 1:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


def part_of_images(count: int, batch: int) -> slice:
    """The images that this device passes through a model: whole batches, the same as with a single device."""
    return _part(rank(), count, batch)


def put_together(part: Tensor, count: int, batch: int) -> Tensor:
    """Join the devices' results for their parts of N images: [N, ...] on the CPU."""
    if size() == 1:
        return part
    whole = torch.empty(count, *part.shape[1:], dtype=part.dtype)
    for number in range(size()):
        rows = _part(number, count, batch)
        if number == rank():
            whole[rows] = part
        distributed.broadcast(whole[rows], number)
    return whole


def _part(number: int, count: int, batch: int) -> slice:
    batches = -(-count // batch)
    first, last = (min(batches * which // size() * batch, count) for which in (number, number + 1))
    return slice(first, last)
