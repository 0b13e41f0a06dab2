"""What was done and why it does what it does, in the sentences of the chosen parts; and what the seed moves."""

import textwrap
from collections.abc import Sequence

from pipeline.classification.classifier import Classifier
from pipeline.inference.method import Method


def introduce(method: Method, *, backbone: str, is_joint: bool) -> str:
    """What is tuned, on which images, and whether the task of an image is known: sentences."""
    known = "is not given" if method.selection.is_real or not method.chooses else "is given"
    joint = " Each task comes with all images before it: joint training, no continual learning."
    told = (
        f"The backbone is `{backbone}`. {method.kind.sentence} The task of an image {known}.{joint if is_joint else ''}"
    )
    return _filled(told)


def explain(method: Method, classifier: Classifier | None) -> str:
    """How features and classes come about: a paragraph in Markdown.

    classifier: None where the head is that of stage one.
    """
    sentences = []
    if not method.tunes:
        sentences.append("Every image runs through the frozen backbone, in one pass.")
    elif not method.kind.chosen:
        sentences.append(method.selection.sentence)
        if method.selection.needs_query:
            sentences.append(method.selector.sentence)
    head = "The head is the one that stage one trained, the task known."
    sentences.append(classifier.sentence if classifier else head)
    return _filled(" ".join(sentences))


def explain_seed(*, task_classes: Sequence[Sequence[str]], task_order: str, evaluate_on: str) -> str:
    """What another seed would change: one sentence in Markdown, and what follows if the order of tasks stays."""
    if not task_classes:
        order = "which classes form which task, the order of the tasks, "
    else:
        order = "the order of the tasks, " if task_order == "random" else ""
    held_out = "the held-out images, " if evaluate_on == "validation" else ""
    fixed = """: not the order of the tasks, so several seeds vary less here than with `task_order: random`"""
    return _filled(
        f"""`seed` moves {order}{held_out}the initial heads, and the order and crops of the training
        images{"" if order else fixed}."""
    )


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False)
