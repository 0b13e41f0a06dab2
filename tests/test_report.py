"""The report: complete, the same bytes for the same numbers, and safe from the names of classes."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from harness.parameters import PLAIN
from pipeline.classification.classifier import find_classifier
from pipeline.evaluation.methods import BASELINES, METHODS, verdict
from pipeline.inference.method import Method
from pipeline.parts import names
from pipeline.report.figures import _limits, curves, heat_map
from pipeline.report.markdown import Result, render
from pipeline.report.text import escape
from pipeline.selection.choose import SELECTIONS, SelectionName
from pipeline.selection.selector import find_selector
from pipeline.tuning.kind import find_kind

RESULT = Result(
    params=PLAIN | {"seed": 3, "epochs": 5},
    tasks={"t1": ["a", "b"], "t2": ["c", "d|<b>e</b>"]},
    backbone={"parameters": 1000, "dim": 8, "vectors": 2, "flops_per_pass": 5_000_000},
    metrics={
        "selection_accuracy": 0.75,
        "forgetting_clipped": 0.2,
        "accuracy_over_images": 0.51,
        "incremental_accuracy_over_images": 0.61,
        "passes_per_image": 2.25,
        "passes_at_inference": 2,
        "gflop_at_inference": 0.01,
        "task_parameters": 40,
        "bytes_per_task": 1234.5,
    },
    rows={name: (0.5 - 0.1 * index, 0.6, 0.1) for index, name in enumerate(METHODS)},
    test_images=1200,
    keys_choose=True,
    method=Method(find_kind("layernorm"), SELECTIONS["query"], find_selector("gmm")),
    classifier=find_classifier("softmax"),
)


def test_says_what_was_run_and_what_came_out() -> None:
    text = render(RESULT)
    assert text.startswith("# Continual LayerNorm tuning on glyphs\n")
    assert "4 classes arrive in 2 tasks" in text
    assert "| C-LN | 50.0 | 60.0 | 10.0 |" in text
    title, picture, sentence, *_ = text.split("\n\n")
    assert (title, picture) == (
        "# Continual LayerNorm tuning on glyphs",
        "![Average accuracy and forgetting over the tasks](figures/over_tasks.png)",
    ), "the report opens with the picture"
    assert sentence == "**C-LN is 40.0 points above the best baseline (frozen backbone, same head).**"
    assert "| kept per task (tuned parameters, selector, classifier) | 1,234 bytes |" in text
    assert "| floating-point operations per image at inference | 0.01 GFLOP |" in text
    for figure in ("over_tasks", "accuracy_matrix", "selection", "key_similarity"):
        assert f"(figures/{figure}.png)" in text
    assert render(RESULT) == text


@pytest.mark.parametrize("tuning", names("tuning"))
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("classifier", names("classifier"))
def test_explains_every_kind_selection_and_classifier(tuning: str, selection: SelectionName, classifier: str) -> None:
    method = Method(find_kind(tuning), SELECTIONS[selection], find_selector("gmm"))
    text = " ".join(render(replace(RESULT, method=method, classifier=find_classifier(classifier))).split())
    for sentence in (method.kind.sentence, find_classifier(classifier).sentence):
        assert " ".join(sentence.split()) in text
    asks = method.tunes and not method.kind.chosen and selection == "query"
    assert ("mixture of ten Gaussians" in text) == asks
    assert ("The right task is selected for 75.0 %" in text) == method.asks_selector


def test_a_loss_is_called_one_and_validation_is_named() -> None:
    rows = {**RESULT.rows, "c_ln": (0.01, 0.1, 0.0)}
    text = render(replace(RESULT, rows=rows, params={**RESULT.params, "evaluate_on": "validation"}))
    assert "C-LN is 9.0 points below the best baseline (frozen backbone, same head)" in text
    assert "held-out training images (validation)" in text


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({}, "which classes form which task, the order of the tasks, the initial heads, and"),
        (
            {"task_classes": [["a"]], "task_order": "random"},
            "`seed` decides the order of the tasks, the initial heads, and",
        ),
        ({"task_classes": [["a"]]}, "`seed` decides the initial heads, and"),
        ({"class_order": "pycil_1993"}, "`seed` decides the initial heads, and"),
        ({"evaluate_on": "validation"}, "the order of the tasks, the held-out images, the initial heads, and"),
    ],
)
def test_says_what_the_seed_moves(changes: dict[str, object], moved: str) -> None:
    text = " ".join(render(replace(RESULT, params={**RESULT.params, **changes})).split())
    assert moved in text
    stays = "It does not change the order of the tasks, so seeds vary less"
    assert (stays in text) == (changes in ({"task_classes": [["a"]]}, {"class_order": "pycil_1993"}))
    assert "| `task_classes` |" not in text


@pytest.mark.parametrize("best", BASELINES)
def test_the_best_baseline_is_named_whichever_it_is(best: str) -> None:
    others = dict.fromkeys(BASELINES, 0.2)
    assert verdict({"c_ln": 0.5, **others, best: 0.39}) == (
        f"C-LN is 11.0 points above the best baseline ({METHODS[best]})."
    )
    assert verdict({"c_ln": 0.5, **others, best: 0.89}) == (
        f"C-LN is 39.0 points below the best baseline ({METHODS[best]})."
    )
    assert "is as accurate as the best baseline" in verdict({"c_ln": 0.5, **others, best: 0.5})


def test_what_means_nothing_is_not_there() -> None:
    method = Method(find_kind("layernorm"), SELECTIONS["average"], find_selector("key"))
    metrics = {
        name: value for name, value in RESULT.metrics.items() if not name.startswith(("selection", "forgetting"))
    }
    rows = {name: (0.5, 0.6, None) for name in METHODS if name != "oracle"}
    told = {"method": method, "metrics": metrics, "rows": rows, "keys_choose": False}
    text = render(replace(RESULT, **told))  # type: ignore[arg-type]
    for absent in ("true task", "## Selection", "selected for", "Forgetting:", "the keys", "None"):
        assert absent not in text, absent
    assert "| C-LN | 50.0 | 60.0 |  |" in text


@pytest.mark.parametrize(
    ("tuning", "selection", "order", "told"),
    [
        (
            "layernorm",
            "query",
            "sequential",
            "frozen backbone's LayerNorms. At test time the task of an image is unknown.",
        ),
        ("layernorm", "oracle", "sequential", "At test time the task of an image is given."),
        ("layernorm", "oracle", "sequential", "C-LN is told the task of each image"),
        ("layernorm", "latest", "sequential", "Every image runs under the parameters tuned by the newest task"),
        ("layernorm", "latest", "joint", "joint training, not continual learning"),
        ("full", "latest", "sequential", "Each task tunes the whole backbone; only the newest model is kept."),
        ("none", "query", "sequential", "Nothing is tuned: features are those of the frozen backbone."),
        ("none", "query", "sequential", "C-LN's row is the frozen backbone"),
        ("none", "query", "sequential", "Every image runs through the frozen backbone, in one pass."),
        ("layerwise", "query", "sequential", "Most parts of the model choose the right task for 75.0 %"),
    ],
)
def test_the_report_says_what_was_done_in_every_setting(
    tuning: str, selection: SelectionName, order: str, told: str
) -> None:
    method = Method(find_kind(tuning), SELECTIONS[selection], find_selector("key"))
    text = render(replace(RESULT, method=method, params={**RESULT.params, "order": order}))
    assert told in " ".join(text.split())


def test_names_of_classes_stay_names() -> None:
    assert r"d\|\<b\>e\</b\>" in render(RESULT)
    assert escape("line\nbreak\x1b[0m") == "line\N{REPLACEMENT CHARACTER}break\N{REPLACEMENT CHARACTER}\\[0m"
    assert escape("ნ plain words") == "ნ plain words"


@pytest.mark.parametrize("size", [1, 2, 12, 50])
def test_heat_maps_are_pictures_of_any_number_of_tasks(size: int) -> None:
    rows = [[0.5] * (step + 1) for step in range(size)]
    content = heat_map(rows, x="x", y="y", label="z")
    assert content == heat_map(rows, x="x", y="y", label="z")
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert picture.std() > 5
    assert b"matplotlib" not in content.lower()


def test_curves_with_one_task_and_with_negative_forgetting() -> None:
    one = curves({name: [0.5] for name in METHODS}, [0.0], METHODS)
    more = curves({name: [0.5, 0.4] for name in METHODS}, [0.0, -0.1], METHODS)
    assert one != more
    assert more == curves({name: [0.5, 0.4] for name in METHODS}, [0.0, -0.1], METHODS)


def test_lines_fill_the_figure_and_no_value_is_cut_off() -> None:
    assert _limits([[0.42, 0.66], [0.61]]) == (40.0, 70.0)
    assert _limits([[0.0, 1.0]]) == (0.0, 100.0)
    assert _limits([[0.7, 0.7]]) == (60.0, 80.0)
