"""Ends a stage whose DVC is gone: nobody would file its result, and a new run may be writing the same files.

Nothing tells a child that its parent was killed, so a thread looks. DVC starts a stage through a shell. Most shells
become their last command; some (dash before 0.5.11, fish) wait beside it: then the shell must keep its parent, too.
"""

import contextlib
import os
import threading
import time

import psutil

STAND_IN = "STAGE_STAND_IN"  # process that DVC started where a server forked the stage (pipeline.runtime.stage_server)
SECONDS_BETWEEN_LOOKS = 0.5
_SHELLS = frozenset({"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"})


def end_with_dvc() -> None:
    """Watch from now on, if DVC runs this process as a stage. One started by hand may outlive its terminal."""
    if "DVC_STAGE" in os.environ:
        try:
            parents = _parents(psutil.Process(int(os.environ.get(STAND_IN, os.getpid()))))
        except (psutil.NoSuchProcess, ProcessLookupError):
            os._exit(1)
        threading.Thread(target=_watch, args=(parents,), daemon=True).start()


def _watch(parents: list[tuple[psutil.Process, int]]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # the shell or the stand-in is gone
        while all(process.ppid() == parent for process, parent in parents):
            time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _parents(started: psutil.Process) -> list[tuple[psutil.Process, int]]:
    """Who must keep which parent, from the process that DVC started up to DVC."""
    pairs = [(started, _parent_of(started))]
    shell = psutil.Process(pairs[0][1])
    return [*pairs, (shell, _parent_of(shell))] if shell.name() in _SHELLS else pairs


def _parent_of(process: psutil.Process) -> int:
    """Raises NoSuchProcess where it is gone.

    Who adopts orphans is in another session, as a rule. In a container it may be in the same one: then it is the first
    process, unless that is DVC itself.
    """
    parent: int = process.ppid()
    adopted = parent == 1 and "dvc" not in " ".join(psutil.Process(1).cmdline())
    if adopted or os.getsid(parent) != os.getsid(process.pid):
        raise psutil.NoSuchProcess(parent)
    return parent
