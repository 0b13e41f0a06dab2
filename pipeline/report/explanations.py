"""Why a choice of selection, selector and classifier does what it does, and what the seed moves: for the report."""

import textwrap
from collections.abc import Sequence

_SELECTIONS = {
    "query": """For each image, the selector `{selector}` names a task from the frozen model's output; a second pass
        runs under that task's LayerNorms. What it names wrongly, the classifier must bear.""",
    "layerwise": """Every LayerNorm selects by its own keys from the CLS token entering it, in a single pass. Layers may
        disagree; an image then runs under a mixture that no task was trained on.""",
    "oracle": """Each image runs under the LayerNorms of its true task, which nobody knows at inference: what
        these LayerNorms and this head would have behind a selector that is never wrong.""",
    "latest": """Every image runs under the newest task's LayerNorms, in one pass: nothing can be selected wrongly, but
        each task moves the features of all classes before.""",
    "average": """Every image runs under the mean of all tasks' LayerNorms, in one pass: nothing can be selected
        wrongly, every task's knowledge is in it, and task t moves the mean by a t-th part only, so that features of old
        classes drift less and less.""",
}

_TUNINGS = {  # where there is no choice of LayerNorms
    "none": "Every image runs through the frozen backbone, in one pass.",
    "full": """Every image runs under the newest model, in one pass: each task moves the features of all classes
        before.""",
}

_CLASSIFIERS = {
    "softmax": """Each task's rows are trained among its own classes, on features as at inference; nothing calibrates
        the logits of one task against another's.""",
    "ncm": """A class is the mean direction of its features, so all classes are measured alike, whatever their task.""",
    "lda": """Classes are Gaussians with one covariance for all tasks: their scores are log-likelihoods, comparable
        between tasks.""",
    "ridge": """One regression onto all classes, from sums that add up over tasks, so that no task is favoured.""",
    "ridge_projected": """One regression onto all classes from random features, by sums that add up over tasks, so that
        no task is favoured.""",
    "aligned_softmax": """All rows are trained together, on samples drawn from the classes' Gaussians, so that the
        logits of different tasks are calibrated against each other.""",
    "cls": """A closed form in which the rows of earlier tasks are held where their Fisher information is large.""",
    "carried_gaussians": """Classes are Gaussians with one covariance for all tasks: their scores are log-likelihoods,
        comparable between tasks. When a task has moved the model, the Gaussians of old classes follow by a linear map,
        fitted on the new task's images before and after; no old image is needed, and the smaller the move, the smaller
        the map's error.""",
}


def explain(*, selection: str, selector: str, classifier: str, training: str, tuning: str) -> str:
    """A paragraph in Markdown, one of the report's lines after the other."""
    head = "The head is the one that stage one trained, the task known."
    if training == "two_stage":
        head = _CLASSIFIERS[classifier]
    return _filled(f"{_TUNINGS.get(tuning, _SELECTIONS[selection]).format(selector=selector)} {head}")


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
    return textwrap.fill(" ".join(text.split()), 120)


def introduce(*, backbone: str, tuning: str, selection: str, order: str) -> str:
    """What of the backbone is tuned, on which images, and whether the task of an image is known: sentences."""
    tuned = {
        "none": f"Nothing of `{backbone}` is tuned.",
        "full": f"All of `{backbone}` is tuned on and on, one model for all tasks.",
        "layernorm": f"Of a frozen `{backbone}` only the LayerNorms are tuned",
    }[tuning]
    if tuning == "layernorm":
        tuned += ", one set for all tasks." if selection == "latest" else ", for each task its own."
    known = "is given" if selection == "oracle" and tuning == "layernorm" else "is not given"
    joint = " Each task comes with all images before it: joint training, no continual learning."
    return f"{tuned} The task of an image {known}.{joint if order == 'joint' else ''}"
