"""Runs each part in a process of its own. Rows arrive one by one, so they survive a crash of the process."""

import importlib
import io
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from benchmarks.gpu.measuring import Setup
from harness.clone import ROOT

Event = dict[str, Any]  # begin, row, skipped, failed


def run_part(name: str, setup: Setup, *, begin_until: float, end: float, tell: Callable[[Event], None]) -> None:
    """Run the measurements of a part (benchmarks.gpu.NAME), and call `tell` with each event.

    begin_until: the time (time.monotonic) after which none begins; end: the time at which the running one is stopped.
    """
    receiver, sender = setup.context.Pipe(duplex=False)
    process = setup.context.Process(target=_work, args=(name, setup, begin_until, sender))
    process.start()
    sender.close()
    doing = "its start"
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            event = receiver.recv()
            doing = event.get("begin", doing)
            tell(event)
        tell({"failed": doing, "why": "stopped: its time was over"})
    except EOFError:
        process.join()
        if process.exitcode:
            tell({"failed": doing, "why": f"its process ended with exit code {process.exitcode}"})
    finally:
        end_processes(process.pid)


def end_processes(pid: int | None, *, itself: bool = True) -> None:
    """End a process that was started here, and all processes that it has started."""
    try:
        parent = psutil.Process(pid)
        processes = parent.children(recursive=True) + ([parent] if itself else [])
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _work(name: str, setup: Setup, begin_until: float, sender: Connection) -> None:
    """Run the measurements in the process of the part."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["DEVICE"] = setup.device
    os.chdir(ROOT)
    with redirect_stdout(io.StringIO()):  # hide the output of stages
        try:
            for measurement in importlib.import_module(f"benchmarks.gpu.{name}").measurements(setup):
                why_not = measurement.why_not or ("its time was over" if time.monotonic() > begin_until else "")
                if why_not:
                    sender.send({"skipped": measurement.name, "why": why_not})
                    continue
                sender.send({"begin": measurement.name})
                _measure(measurement.name, measurement.measure, sender)
        except BrokenPipeError:
            return
        except Exception as error:
            sender.send(_failure(f"the start of {name}", error))


def _measure(name: str, measure: Callable[[], Any], sender: Connection) -> None:
    """Run a measurement. If it fails, for example on a card that is too small, the rest of the part continues."""
    try:
        for row in measure():
            sender.send({"row": row})
    except BrokenPipeError:
        raise
    except Exception as error:
        sender.send(_failure(name, error))
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _failure(name: str, error: Exception) -> Event:
    first = (str(error).splitlines() or [""])[0]
    trace = "".join(traceback.format_exception(error))
    return {"failed": name, "why": f"{type(error).__name__}: {first}", "traceback": trace}


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    end_processes(os.getpid())


def why_not(setup: Setup) -> str:
    """Why processes cannot use the device; empty if they can."""
    receiver, sender = setup.context.Pipe(duplex=False)
    process = setup.context.Process(target=_try, args=(setup.device, sender))
    process.start()
    sender.close()
    try:
        return str(receiver.recv())
    except EOFError:
        return "its process ended"
    finally:
        process.join()


def _try(device: str, sender: Connection) -> None:
    try:
        torch.ones(1, device=device).sum().item()
        sender.send("")
    except (RuntimeError, AssertionError) as error:
        sender.send(str(error).splitlines()[0])
