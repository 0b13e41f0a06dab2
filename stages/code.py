"""Write down which code each stage runs, so that an edit reruns the stages that it concerns, and no other.

The first stage of every run, so that parameters which name no part or contradict one another are refused at once.
"""

from typing import Literal

from pipeline.classification.classifier import find_classifier
from pipeline.inference.method import Method
from pipeline.params import Record, read_block, read_params
from pipeline.runtime import code
from pipeline.runtime.command import run
from pipeline.selection.choose import SELECTIONS, SelectionName
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.tuning.kind import find_kind


class Params(Record):
    """Which parts of the method are chosen."""

    tuning: str
    selection: SelectionName
    selector: str
    classifier: str
    order: Literal["sequential", "joint"]
    correction: str


def main() -> None:
    """Write a file of digests for each stage."""
    params = read_params(Params)
    kind, selector = find_kind(params.tuning), find_selector(params.selector)
    read_block(params.tuning, kind.options)
    method = Method(kind, SELECTIONS[params.selection], selector)
    classifier = find_classifier(params.classifier)
    method.check(classifier, is_joint=params.order == "joint", rematches=params.correction == "rematch")
    sources, chosen = code.read_sources(), params.model_dump()
    for file in sorted(sources):
        if file.parts[0] == "stages" and file.stem not in ("__init__", "code"):
            artifacts.save_json(artifacts.code_file(file.stem), code.digests(file.stem, sources, chosen))


if __name__ == "__main__":
    run(main)
