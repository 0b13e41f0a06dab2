"""Explains a run in the report: the method, in the sentences of the chosen parts, and what the seed changes."""

import textwrap
from collections.abc import Sequence

from pipeline.classification.classifier import Classifier
from pipeline.inference.method import Method

SEEDED = ("task_classes", "task_order", "class_order", "evaluate_on")  # what explain_seed asks for


def introduce(method: Method, *, backbone: str, is_joint: bool, is_given: bool = False) -> str:
    """Sentences on what is tuned, and whether the task of a test image is known."""
    known = "unknown" if not is_given and (method.selection.is_real or not method.chooses) else "given"
    joint = " Each task comes with all images before it: this is joint training, not continual learning."
    told = f"The backbone is `{backbone}`. {method.kind.sentence} At test time the task of an image is {known}."
    return _filled(told + joint if is_joint else told)


def explain(method: Method, classifier: Classifier | None, *, is_given: bool = False) -> str:
    """A paragraph in Markdown on how features and classes are computed.

    classifier: None if the head is that of stage one; is_given: whether the setting gives the task of a test image.
    """
    sentences = []
    if not method.tunes:
        sentences.append("Every image runs through the frozen backbone, in one pass.")
    elif is_given and method.chooses:
        sentences.append(
            """Each test image runs under the parameters tuned by its task, in one pass. The head has learned from
            training images whose parameters were chosen as if no task were given."""
        )
    elif not method.kind.chosen:
        sentences.append(method.selection.sentence)
        if method.selection.needs_query:
            sentences.append(method.selector.sentence)
    head = "The head is the one that stage one trained, where the task of each image is known."
    sentences.append(classifier.sentence if classifier else head)
    return _filled(" ".join(sentences))


def explain_seed(*, task_classes: Sequence[Sequence[str]], task_order: str, class_order: str, evaluate_on: str) -> str:
    """One sentence in Markdown on what another seed changes, and what follows if it keeps the order of tasks."""
    if not task_classes and class_order == "random":
        order = "which classes form which task, the order of the tasks, "
    else:
        order = "the order of the tasks, " if task_classes and task_order == "random" else ""
    held_out = "the held-out images, " if evaluate_on == "validation" else ""
    varying = "task_order: random" if task_classes else "class_order: random"
    fixed = f""". It does not change the order of the tasks, so seeds vary less than with `{varying}`"""
    return _filled(
        f"""`seed` decides {order}{held_out}the initial heads, and the order and crops of the training
        images{"" if order else fixed}."""
    )


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False)
