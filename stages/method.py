"""Check that the parts chosen in params.yaml exist and fit together. This is the first stage of every run.

It writes down their names, which the stage `code` needs to find the code that each stage runs.
"""

from pipeline.classification.classifier import find_classifier
from pipeline.evaluation.settings import SETTINGS, check_setting
from pipeline.inference.contradictions import Case, Choices, refuse_contradictions
from pipeline.inference.method import Method
from pipeline.params import read_block, read_params
from pipeline.parts import PLACES
from pipeline.runtime.command import run
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.tuning.kind import find_kind


class Params(Choices):
    """All choices."""


def main() -> None:
    """Check the choices, and write down which parts they name."""
    params = read_params(Params)
    kind, classifier = find_kind(params.tuning), find_classifier(params.classifier)
    read_block(params.tuning, kind.options)
    options = read_block(params.classifier, classifier.options)
    method = Method(kind, SELECTIONS[params.selection], find_selector(params.selector), params.average_scale)
    refuse_contradictions(Case(params, method, classifier))
    check_setting(
        params.setting,
        task_classes=params.task_classes,
        first_task_classes=params.first_task_classes,
        correction=params.correction,
        each_class_once=classifier.each_class_once(options),
    )
    by_domain = SETTINGS[params.setting].by_domain
    artifacts.save_json(artifacts.STREAM, {"tasks_are": "domains" if by_domain else "classes"})
    artifacts.save_json(artifacts.METHOD, {name: getattr(params, name) for name in PLACES})


if __name__ == "__main__":
    run(main)
