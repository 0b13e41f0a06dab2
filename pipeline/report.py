"""The Markdown report: what was run, what came out, what it cost. Depends on numbers and parameters only."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import visible
from pipeline.explanations import explain, explain_seed

METHODS = {
    "c_ln": "C-LN",
    "single_stage": "C-LN, single training stage",
    "oracle": "C-LN, true task given",
    "frozen": "frozen backbone, same head",
    "frozen_ncm": "frozen backbone, nearest class mean",
}


@dataclass(frozen=True)
class Result:
    """All that the report tells."""

    params: Mapping[str, Any]
    tasks: Mapping[str, Sequence[str]]  # classes of each task
    backbone: Mapping[str, int]  # parameters, dim, flops_per_pass
    metrics: Mapping[str, float]
    rows: Mapping[str, tuple[float, float, float]]  # method -> average accuracy, its mean over steps, forgetting
    test_images: int


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~:@.-])", r"\\\1", visible(text))


def code(text: str) -> str:
    """Text as code, where Markdown can: not if it would end the code, or the cell of a table."""
    return f"`{text}`" if text.isprintable() and not set(text) & set("`|") else escape(text)


def percent(fraction: float) -> str:
    """0.4213 -> 42.1."""
    return f"{100 * fraction:.1f}"


def headline(rows: Mapping[str, tuple[float, float, float]]) -> list[tuple[str, str, str, str]]:
    """Method, average accuracy, average incremental accuracy and forgetting of each row, as text."""
    return [(METHODS[key], *map(percent, values)) for key, values in rows.items()]  # type: ignore[misc]


_CORRECTIONS = {
    "none": "",
    "arc": " C-LN's row has the correction `arc` (arXiv 2405.14318).",
    "arc_retention": " C-LN's row has the correction `arc_retention` (arXiv 2405.14318): **transductive**, its head\n"
    "has followed the unlabelled test images; not to be compared with rows that have not.",
    "rematch": " C-LN's row is re-matched: the LayerNorms of the predicted class's task were asked, too.",
}

HEADLINE = ("method", "average accuracy (%)", "average incremental accuracy (%)", "forgetting (points)")


def render(result: Result) -> str:
    """The whole report, in Markdown."""
    params, tasks = result.params, result.tasks
    gain = 100 * (result.rows["c_ln"][0] - result.rows["frozen"][0])
    images = "test images" if params["evaluate_on"] == "test" else "held-out training images (validation)"
    selected = (
        f" The right\nLayerNorms are selected for {percent(result.metrics['selection_accuracy'])} % of the images."
        if params["selection"] in ("query", "layerwise")
        else ""
    )
    shown = {name: value for name, value in params.items() if name != "task_classes"}  # the table of tasks has them
    remarks = selected + _CORRECTIONS[params["correction"]]
    classes = [(name, ", ".join(map(escape, names))) for name, names in tasks.items()]
    return f"""\
# Continual LayerNorm tuning on {params["dataset"]}

{sum(map(len, tasks.values()))} classes arrive in {len(tasks)} tasks. Of a frozen `{params["backbone"]}` only the
LayerNorms are tuned, for each task its own, and the task of an image is not given. Seed {params["seed"]}, lr
{params["lr"]:g}, {params["epochs"]} epochs a task; measured on {result.test_images:,} {images}.

{table(HEADLINE, headline(result.rows))}

**C-LN is {abs(gain):.1f} points {"above" if gain >= 0 else "below"} the frozen backbone with the same head.**{remarks}

{explain(**{name: params[name] for name in ("selection", "selector", "classifier", "training")})}

{explain_seed(**{name: params[name] for name in ("task_classes", "task_order", "evaluate_on")})}

Average accuracy: unweighted mean over the tasks after the last one, each image classified among all classes. Average
incremental accuracy: its mean over the steps. Forgetting: best accuracy on a task before the last step minus the final
one (Chaudhry); where the last step counts too, as in the authors' code, it is
{percent(result.metrics["forgetting_clipped"])} points. Given the true task, its LayerNorms are used; the class is still
one of all. Single training stage: the head that stage one trains together with the LayerNorms, in place of stage two's.

## Over the tasks

![Average accuracy and forgetting over the tasks](figures/over_tasks.png)

## Accuracy matrix

Accuracy (%) on each task after each step.

![Accuracy matrix](figures/accuracy_matrix.png)

## Selection

Where the images of each task went after the last step (%), and how alike the keys are (cosine, in percent): tasks with
similar keys are confused.

![Selected task by true task](figures/selection.png)

![Cosine between the keys](figures/key_similarity.png)

## Cost

{table(("what", "amount"), costs(result))}

## Tasks

| task | classes |
| --- | --- |
{chr(10).join(f"| {name} | {names} |" for name, names in classes)}

## Parameters

{table(("name", "value"), [(f"`{name}`", code(str(value))) for name, value in shown.items()])}
"""


def costs(result: Result) -> list[tuple[str, str]]:
    """What was learned, and how many passes it took."""
    backbone, metrics, num_tasks = result.backbone, result.metrics, len(result.tasks)
    a_task, dim, passes = int(metrics["task_parameters"]), backbone["dim"], int(metrics["passes_at_inference"])
    models = 1 if result.params["selection"] in ("latest", "average") else num_tasks
    key = dim if result.params["selection"] == "query" else 0
    learned = models * a_task + num_tasks * key + sum(map(len, result.tasks.values())) * (dim + 1)
    every_step = passes - 1 + (num_tasks + 1) / 2  # query pass; a tuned pass at each step from the image's own task on
    return [
        ("parameters of the frozen backbone", f"{backbone['parameters']:,}"),
        ("tuned parameters a task", f"{a_task:,} ({100 * a_task / backbone['parameters']:.2f} %)"),
        ("key of a task", f"{key:,}"),
        ("classifier parameters a class", f"{dim + 1:,}"),
        ("learned in total", f"{learned:,}"),
        ("passes an image at inference", f"{passes}"),
        ("floating-point operations of them", f"{metrics['gflop_at_inference']:.3g} GFLOP"),
        ("passes an image for the whole accuracy matrix", f"{metrics['passes_per_image']:.2f}"),
        ("the same, were every step evaluated anew", f"{every_step:.2f}"),
    ]
