"""The Markdown report: the run, its results and its cost. It depends only on numbers and parameters."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.classification.classifier import Classifier
from pipeline.evaluation.methods import METHODS, verdict, worth_of_tuning
from pipeline.evaluation.settings import SETTINGS
from pipeline.inference.method import Method
from pipeline.report.explanations import SEEDED, explain, explain_seed, introduce
from pipeline.report.text import code, escape, percent, table

Row = tuple[float, float, float | None]  # average accuracy, its mean over the steps, forgetting (None for one task)


@dataclass(frozen=True)
class Result:
    """Everything that the report shows."""

    params: Mapping[str, Any]
    tasks: Mapping[str, Sequence[str]]  # classes of each task
    backbone: Mapping[str, int]  # parameters, vectors, dim, flops_per_pass
    metrics: Mapping[str, float]
    rows: Mapping[str, Row]
    test_images: int
    keys_choose: bool  # whether the paper's key chooses the task of an image
    method: Method
    classifier: Classifier | None  # None: the head is that of stage one
    domains: Sequence[str] = ()  # of each task; empty if tasks are sets of classes
    matrix: Sequence[Sequence[float]] = ()  # accuracy of C-LN on each task after each step, up to the diagonal
    shares_test: bool = False  # whether the test images are of no task; a row of the matrix is then one number


def headline(rows: Mapping[str, Row]) -> list[tuple[str, ...]]:
    """Method, average accuracy, average incremental accuracy and forgetting of each row, as text."""
    return [
        (METHODS[row], *("" if value is None else percent(value) for value in values)) for row, values in rows.items()
    ]


_CORRECTIONS = {
    "none": "",
    "arc": " C-LN's row has the correction `arc` (arXiv 2405.14318).",
    "arc_retention": " C-LN's row has the correction `arc_retention` (arXiv 2405.14318). It is **transductive**: its\n"
    "head has learned from the unlabelled test images. Do not compare it with rows whose head has not.",
    "rematch": " C-LN's row is re-matched: images also ran under what the predicted class's task has tuned.",
}

HEADLINE = ("method", "average accuracy (%)", "average incremental accuracy (%)", "forgetting (points)")


def render(result: Result) -> str:
    """The whole report, in Markdown. It opens with the main figure and one sentence on the result."""
    params, tasks = result.params, result.tasks
    is_given = SETTINGS[params["setting"]].gives_task
    images = "test images" if params["evaluate_on"] == "test" else "held-out training images (validation)"
    shown = {name: value for name, value in params.items() if name != "task_classes"}  # they are in the table of tasks
    classes = [(name, ", ".join(map(escape, names))) for name, names in tasks.items()]
    return f"""\
# Continual LayerNorm tuning on {params["dataset"]}

![Average accuracy and forgetting over the tasks](figures/over_tasks.png)

**{verdict({row: values[0] for row, values in result.rows.items()})}**

{arrival(result)}
{introduce(result.method, backbone=params["backbone"], is_joint=params["order"] == "joint", is_given=is_given)}
Seed {params["seed"]}, lr {params["lr"]:g}, {params["epochs"]} epochs per task; measured on
{result.test_images:,} {images}.

{table(HEADLINE, headline(result.rows))}

{conclusion(result)}

{explain(result.method, result.classifier, is_given=is_given)}

{explain_seed(**{name: params[name] for name in SEEDED})}

{definitions(result)}

{domains_section(result)}{matrix_section(result)}{selection_section(result)}## Cost

{table(("what", "amount"), costs(result))}

## Tasks

| task | classes |
| --- | --- |
{chr(10).join(f"| {name} | {names} |" for name, names in classes)}

## Parameters

{table(("name", "value"), [(f"`{name}`", code(str(value))) for name, value in shown.items()])}
"""


def conclusion(result: Result) -> str:
    """What a reader must know to judge the first sentence, which compares C-LN with the best baseline."""
    params, accuracies = result.params, {row: values[0] for row, values in result.rows.items()}
    sentences = []
    if result.method.tunes:
        sentences.append(worth_of_tuning(accuracies))
    else:
        sentences.append("Nothing is tuned here: C-LN's row is the frozen backbone.")
    if result.method.chooses and not result.method.selection.is_real and not SETTINGS[params["setting"]].gives_task:
        sentences.append("C-LN is told the task of each image; the baselines are not.")
    if "selection_accuracy" in result.metrics:
        right = percent(result.metrics["selection_accuracy"])
        if result.method.asks_selector:
            sentences.append(f"The right task is selected for {right} % of the images.")
        if result.method.kind.chosen:
            sentences.append(f"Most parts of the model choose the right task for {right} % of the images.")
    return "\n".join(filter(None, sentences)) + _CORRECTIONS[params["correction"]]


def definitions(result: Result) -> str:
    """What the columns and rows of the first table mean."""
    setting = SETTINGS[result.params["setting"]]
    over_images = [percent(result.metrics[f"{name}accuracy_over_images"]) for name in ("", "incremental_")]
    parts = [
        "Average accuracy: over all test images after the last step; every image is classified among"
        if result.shares_test
        else "Average accuracy: unweighted mean over the tasks after the last step; every image is classified among",
        f"{setting.among}.",
        f"If every image has the same weight instead, C-LN's is {over_images[0]} % and, as the mean over the steps,"
        f" {over_images[1]} %.",
        "Average incremental accuracy: the mean of the average accuracy over the steps.",
        "Linear discriminant: in place of the head, class Gaussians with one shrunk covariance, learned task by task"
        " from the same features.",
    ]
    if "forgetting_clipped" in result.metrics:
        parts.append(
            "Forgetting: best accuracy on a task before the last step minus its final accuracy (Chaudhry). If the last"
            f" step counts, too, as in the authors' code, it is {percent(result.metrics['forgetting_clipped'])} points."
        )
    if "single_stage" in result.rows:
        parts.append(
            "Single training stage: the head that stage one trains together with what a task tunes replaces that of"
            " stage two."
        )
    if "oracle" in result.rows:
        parts.append(
            "True task given: each image runs under what its true task has tuned, but is still classified among all"
            " classes."
        )
    return textwrap.fill(" ".join(parts), 120)


def arrival(result: Result) -> str:
    """What arrives in how many tasks, and the setting."""
    classes = len({name for names in result.tasks.values() for name in names})
    sentence = " ".join(SETTINGS[result.params["setting"]].sentence.split())
    what = f"{classes} classes arrive in {len(result.tasks)} tasks."
    if result.domains:
        what = f"{classes} classes arrive in {len(result.domains)} domains, one per task."
    unseen = " The test images are of other domains, which no task trains: all of them count after every step."
    return f"{what} {sentence}{unseen if result.shares_test else ''}"


def matrix_section(result: Result) -> str:
    """The accuracy on each task after each step; empty if the test images are of no task."""
    if result.shares_test:
        return ""
    return """\
## Accuracy matrix

Accuracy (%) on each task after each step.

![Accuracy matrix](figures/accuracy_matrix.png)

"""


def domains_section(result: Result) -> str:
    """The accuracy of C-LN on each domain; empty if tasks are sets of classes."""
    if not result.domains:
        return ""
    named = [f"{task} ({escape(domain)})" for task, domain in zip(result.tasks, result.domains, strict=True)]
    if result.shares_test:
        steps = [(name, percent(row[0])) for name, row in zip(named, result.matrix, strict=True)]
        return f"## Domains\n\n{table(('domain', 'accuracy on all test images after it (%)'), steps)}\n\n"
    rows = [
        (name, percent(result.matrix[step][step]), percent(result.matrix[-1][step])) for step, name in enumerate(named)
    ]
    return f"## Domains\n\n{table(('domain', 'accuracy when learned (%)', 'after the last step (%)'), rows)}\n\n"


def selection_section(result: Result) -> str:
    """The section on selected tasks and similar keys, with the figures that exist; may be empty."""
    parts = []
    if "selection_accuracy" in result.metrics:
        parts += [
            "Tasks selected for the images of each task after the last step (%).",
            "![Selected task by true task](figures/selection.png)",
        ]
    if result.keys_choose:
        parts += [
            "Similarity of the keys (cosine, in percent): tasks with similar keys are confused.",
            "![Cosine between the keys](figures/key_similarity.png)",
        ]
    return "".join(f"{part}\n\n" for part in (["## Selection", *parts] if parts else []))


def costs(result: Result) -> list[tuple[str, str]]:
    """Rows on what was learned and is kept, and how many passes it took."""
    backbone, metrics, num_tasks = result.backbone, result.metrics, len(result.tasks)
    of_task, passes = int(metrics["task_parameters"]), metrics["passes_at_inference"]
    rows = [
        ("parameters of the frozen backbone", f"{backbone['parameters']:,}"),
        ("tuned parameters per task", f"{of_task:,} ({100 * of_task / backbone['parameters']:.2f} %)"),
        ("numbers that describe an image", f"{backbone['vectors']} x {backbone['dim']}"),
        ("kept per task (tuned parameters, selector, classifier)", f"{metrics['bytes_per_task']:,.0f} bytes"),
        ("passes per image at inference", f"{passes:.4g}"),
        ("floating-point operations per image at inference", f"{metrics['gflop_at_inference']:.3g} GFLOP"),
        ("passes per image for the whole accuracy matrix", f"{metrics['passes_per_image']:.2f}"),
    ]
    if passes in (1, 2):  # a query once; a tuned pass, and what it asks, at each step from the image's own task on
        of_tuned = 1 + result.method.passes(num_tasks).asked
        from_scratch = passes - of_tuned + of_tuned * (num_tasks + 1) / 2
        rows.append(("the same, if every step were evaluated from scratch", f"{from_scratch:.2f}"))
    return rows
