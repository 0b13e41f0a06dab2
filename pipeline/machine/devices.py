"""Several devices at work on one stage: `DEVICES=4 dvc repro`.

Each device has a process that runs the whole stage over the same files. It computes its part of every training batch,
whose gradients are added up, and its part of the features, which are put together again. The first alone prints and
writes. Lightning Fabric starts the processes, or finds itself among those that torchrun has started, on one node or on
many; torch.distributed moves the numbers. With one device nothing of this is loaded and nothing is copied.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from pipeline.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

for _name in ("distributed", "rank_zero"):  # how many processes there are is no news to who asked for them
    logging.getLogger(f"lightning_fabric.utilities.{_name}").setLevel(logging.WARNING)


def on_all_devices(main: Callable[..., None]) -> Callable[..., None]:
    """A stage's main on the devices that the variable DEVICES, or torchrun, asks for; by default in this process.

    Not a DVC parameter: what several devices compute differs from what one does by the rounding of sums. It raises
    UserError for devices that are not there.
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
    """count: processes of this node, which are to be started or were."""
    from lightning_fabric import Fabric  # noqa: PLC0415  (a second of imports)
    from lightning_fabric.strategies import DDPStrategy  # noqa: PLC0415

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
        raise UserError(f"DEVICES={text!r} is no number of devices: unset it, or set it to 2 or more")
    if int(text) > 1 and os.environ.get("DEVICE") != "cpu":
        if "DEVICE" in os.environ:
            raise UserError(f"DEVICES={text} beside DEVICE, which names one: CUDA_VISIBLE_DEVICES chooses among GPUs")
        if int(text) > torch.cuda.device_count():
            raise UserError(f"DEVICES={text}, but {torch.cuda.device_count()} GPUs are there: DEVICES=1")
    return int(text)


def _work(fabric: "Fabric", work: Callable[[], None]) -> Exception | None:
    """In the process of a device. The first hands over what went wrong; a mistake of a user is every device's."""
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
    """How many devices are at work on this stage."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this process has; 0 is the first."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def wait() -> None:
    """Until all have come here."""
    if size() > 1:
        distributed.barrier()


def part_of_batch(count: int) -> tuple[slice, float]:
    """The images of a training batch that this device computes, and their weight in the batch's mean.

    A batch with fewer images than devices is computed whole by each.
    """
    if count < size():
        return slice(0, count), 1 / size()
    first, last = (count * number // size() for number in (rank(), rank() + 1))
    return slice(first, last), (last - first) / count


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over the devices, in one message, in the finest precision among them."""
    if size() > 1:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


def part_of_images(count: int, batch: int) -> slice:
    """The images that this device passes through a model, whole batches of them: a batch is as it would be alone."""
    return _part(rank(), count, batch)


def put_together(part: Tensor, count: int, batch: int) -> Tensor:
    """[N, ...] on the CPU from what the devices have made of their parts of N images."""
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
