"""Ctrl-C without a traceback: one line and exit code 130, during imports and later.

A traceback of thirty lines tells nothing to somebody who pressed Ctrl-C. While modules are imported, the process ends
at once: there is nothing to clean up, and a library could swallow the exception or turn it into another one. While a
command runs, KeyboardInterrupt is raised as usual, so that temporary files are removed. A stage of `python -m
pipeline.dvc` is killed with its stand-in; the next one removes what it has unpacked (stages.download).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

EXIT_CODE = 128 + signal.SIGINT


def end_at_once() -> None:
    """Make Ctrl-C end this process at once. If a caller ignores or handles Ctrl-C already, nothing changes."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _is_main_thread():
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt inside. An exception that then leaves the block becomes one line and code 130."""
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, _end) or not _is_main_thread():
        yield
        return
    pressed = threading.Event()

    def interrupt(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException as leaving:
        if pressed.is_set():  # a library may have turned it into another exception
            signal.signal(signal.SIGINT, _end)
            if isinstance(leaving, SystemExit) and isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)  # the command reports what it leaves behind
            else:
                _say()
            sys.exit(EXIT_CODE)
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _end(*_: object) -> None:
    _say()
    os._exit(EXIT_CODE)


def _say() -> None:
    """Print one line, unless this is a stage of DVC, which prints it itself."""
    if "DVC_STAGE" not in os.environ:
        text = "\ninterrupted\n" if os.isatty(2) else "interrupted\n"  # a terminal has just shown ^C
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
