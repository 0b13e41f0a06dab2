"""What stage one learns beside the class loss, apart from parameters that do not concern it.

Stage one must run again when `selection` becomes `layerwise`, and must not when it becomes `oracle`. It depends on the
file written here, whose content changes in the first case only. Combinations that make no sense end here, early.
"""

from typing import Literal

from pipeline.errors import UserError
from pipeline.params import Record, read_params
from pipeline.runtime.command import run
from pipeline.store import artifacts


class Params(Record):
    """The parameters that must agree with one another."""

    selection: Literal["query", "layerwise", "oracle", "latest", "average"]
    attention: bool
    detach: bool
    tuning: Literal["layernorm", "full", "none"]
    order: Literal["sequential", "joint"]


def main() -> None:
    """Check the parameters against one another and write what concerns stage one."""
    params = read_params(Params)
    if params.tuning == "full" and params.selection != "latest":
        raise UserError("params.yaml: tuning: full keeps no model of earlier tasks: set selection: latest")
    if params.order == "joint" and params.selection != "latest":
        raise UserError("params.yaml: order: joint leaves one model for all tasks: set selection: latest")
    layerwise = params.selection == "layerwise"
    if layerwise and params.tuning != "layernorm":
        raise UserError("params.yaml: selection: layerwise selects LayerNorms: set tuning: layernorm")
    content = {
        "layerwise": layerwise,
        "attention": layerwise and params.attention,
        "detach": layerwise and params.detach,
    }
    artifacts.save_json(artifacts.OBJECTIVE, content)


if __name__ == "__main__":
    run(main)
