"""Ends a stage whose DVC is gone: nothing would record its result, and a new run may be writing the same files.

Nothing tells a process that its parent was killed, and DVC is not always the parent: a shell, a stand-in or a launcher
may stand between them. But DVC's lock file names every DVC that is running a stage. So the stage's own DVC is the
nearest ancestor that this file names. If it names none, that DVC is already gone.
"""

import contextlib
import os
import threading
import time
from pathlib import Path

import psutil

from pipeline.runtime.dvc_lock import RWLOCK, lock_holders

STAND_IN = "STAGE_STAND_IN"  # process that DVC started where a server forked the stage (pipeline.runtime.stage_server)
SECONDS_BETWEEN_LOOKS = 0.5


def end_with_dvc() -> None:
    """Watch from now on, if DVC runs this process as a stage. A stage started by hand may outlive its terminal."""
    here = Path.cwd()
    lock = next((file for folder in (here, *here.parents) if (file := folder / RWLOCK).exists()), None)
    if "DVC_STAGE" in os.environ and lock:
        started = int(os.environ.get(STAND_IN, os.getpid()))
        threading.Thread(target=_watch, args=(started, lock), daemon=True).start()


def end_with_parent() -> None:
    """Watch from now on: when what started this DVC is killed, DVC ends, and its stage with it."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def _watch(started: int, lock: Path) -> None:
    while (holders := lock_holders(lock)) is None:
        time.sleep(0.01)  # another DVC is writing it
    try:
        dvc = next(ancestor for ancestor in psutil.Process(started).parents() if ancestor.pid in holders)
    except (psutil.NoSuchProcess, StopIteration):
        with contextlib.suppress(OSError):  # its terminal may be gone, too
            os.write(2, f"error: the dvc that ran {os.environ['DVC_STAGE']} is gone\n".encode())
    else:
        _wait_for(dvc)
    os._exit(1)


def _wait_for(dvc: psutil.Process) -> None:
    """Return when it has ended, even if its own parent does not notice."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
            time.sleep(SECONDS_BETWEEN_LOOKS)
