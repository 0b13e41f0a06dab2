"""Ray that waits for its nodes on a busy machine, too: it gives them 30 s to start, whatever its configuration says.

`be_patient` changes Ray in this process; `python -m harness.patient_ray` is the command `ray`.
"""

import time
from collections.abc import Callable
from typing import Any

from ray._private import services, utils

_SECONDS = 600.0


def be_patient() -> None:
    """Let nodes that this process starts take ten minutes, and start without what only Ray's dashboard needs."""
    services.get_node = _patient(services.get_node)
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")  # its agent would start too slowly


def _patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    def ask_again(*arguments: object) -> Any:  # noqa: ANN401
        until = time.monotonic() + _SECONDS
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:  # not known yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    return ask_again


if __name__ == "__main__":
    from ray.scripts.scripts import main

    be_patient()
    main()
