"""The model card of an exported folder, in Markdown with the front matter of the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.methods import ACCURACIES
from pipeline.evaluation.settings import SETTINGS
from pipeline.prediction.finished import Finished
from pipeline.prediction.novelty import Threshold
from pipeline.report.text import code, escape, percent, table
from pipeline.tasks import task_name

_USE = {
    "learner": """```python
from pipeline.prediction.learner import Learner  # in a checkout of the project
answers = Learner.load("FOLDER"GIVEN).predict(["a.jpg", "b.png"])
```""",
    "timm": """```python
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
```

`config.json` has the names of the classes in `label_names`.""",
    "onnx": """```python
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
outputs = session.run(None, {"pixels": pixels})  # uint8 [N, SIZE, SIZE, 3], any N
```

The outputs are `logits` and `probabilities` [N, classes] and, where a task is selected, `task` [N], counted from 0.
`classes.json` has the names of the classes in this order. Scaling, mean and deviation are inside the graph.""",
}


def card(
    form: str,
    finished: Finished,
    *,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
    counts: Mapping[str, Any],
) -> str:
    """The text. form: `learner`, `timm` or `onnx`; counts: images of each task, for training and for testing."""
    settings, params = finished.settings, provenance["params"]
    given = ', task="t1"' if SETTINGS[settings.setting].gives_task else ""
    config = finished.parts.config
    plain = settings.normalize == "none"
    mean, std = ([0.0] * 3, [1.0] * 3) if plain else (config["mean"], config["std"])
    classes = [
        (task_name(task), str(counts.get(task_name(task), {}).get("training", "")), ", ".join(map(escape, names)))
        for task, names in enumerate(finished.tasks)
    ]
    accuracies = {f"`{name}`": percent(metrics[name]) for name in ACCURACIES.values() if name in metrics}
    points = {f"`{name}`": percent(metrics[name]) for name in ("forgetting", "selection_accuracy") if name in metrics}
    how = {
        name: params[name]
        for name in ("dataset", "backbone", "tuning", "selection", "selector", "classifier")
        if name in params
    }
    return "\n".join(
        [
            "---",
            "pipeline_tag: image-classification",
            *(["library_name: timm"] if form == "timm" else []),
            "tags: [image-classification, continual-learning]",
            "---",
            "",
            f"# Image classifier of {len(finished.classes)} classes, learned in {len(finished.tasks)} tasks",
            "",
            "Made by the pipeline of continual LayerNorm tuning (arXiv 2308.09610).",
            "",
            "## Use",
            "",
            _USE[form].replace("SIZE", str(settings.image_size)).replace("GIVEN", given),
            "",
            "## Pictures",
            "",
            f"{preparation(finished)}; values in [0, 1] minus mean {mean}, divided by standard deviation {std}.",
            "",
            "## Metrics",
            "",
            table(("metric", "percent"), [*(accuracies | points).items()]),
            "",
            f"Measured on {int(metrics.get('test_images', 0))} images; `average_accuracy` is that of this learner.",
            "",
            "## Tasks and classes",
            "",
            table(("task", "training images", "classes"), classes),
            "",
            "## None of these",
            "",
            none_of_these(finished.threshold)
            if form == "learner"
            else "This form gives no score for this. `--format learner` does.",
            "",
            "## Provenance",
            "",
            table(("parameter", "value"), [(code(name), code(str(value))) for name, value in how.items()]),
            "",
            f"Commit: {code(str(provenance['revision']))}. All parameters and the SHA-256 of its files:",
            "`origin.json`.",
            "",
        ]
    )


def preparation(finished: Finished) -> str:
    """How a picture becomes the model's input, but for its values."""
    size = finished.settings.image_size
    if not finished.array_size:
        return (
            "The central square of an upright RGB picture, whose shorter side is first reduced to 256 pixels if it is "
            f"longer, scaled to {size} pixels a side (bicubic)"
        )
    height, width = finished.array_size
    scaled = "" if (height, width) == (size, size) else f", then scaled to {size} x {size} (bilinear, antialiased)"
    return f"The middle of an upright RGB picture at {width} x {height} pixels (others: bicubic){scaled}"


def none_of_these(threshold: Threshold | None) -> str:
    """What the threshold means, for people."""
    if threshold is None:
        return "No threshold: there were no pictures to choose it on."
    return (
        f"A picture with a score above {threshold.value:.4g} belongs to none of these classes. The threshold is the "
        f"95th percentile of the scores of {threshold.chosen_on} pictures that no training has seen; on "
        f"{threshold.measured_on} others of the same classes, the false-alarm rate is "
        f"{percent(threshold.false_alarms)} %."
    )
