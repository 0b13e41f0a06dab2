"""Parameters that contradict one another are refused in one line, by the first stage that can know."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import run_stage
from pipeline.classification.classifier import TaskFeatures, Training, find_classifier
from pipeline.errors import UserError
from pipeline.inference.contradictions import RULES, Choices
from pipeline.linear.head import Head
from pipeline.params import read_mapping
from pipeline.parts import names
from pipeline.progress import Progress
from pipeline.store import artifacts
from pipeline.tuning.kind import find_kind

KINDS = names("tuning")


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": "full"}, "tuning: full keeps no model of earlier tasks: set selection: latest"),
        ({"order": "joint"}, "order: joint leaves one model for all tasks: set selection: latest"),
        ({"tuning": "layerwise", "selection": "oracle"}, "tuning: layerwise selects by itself: set selection: query"),
        ({"correction": "rematch", "tuning": "none"}, "correction: rematch needs tensors of each task"),
        ({"classifier": "carried_gaussians"}, "this classifier needs one model for all tasks: set selection: average"),
        ({"classifier": "class_gaussians"}, "this classifier needs one model for all tasks: set selection: average"),
        (
            {"classifier": "carried_gaussians", "carried_gaussians.anchor": True, "selection": "oracle"},
            "this classifier needs one model for all tasks: set selection: average",
        ),
        (
            {
                "classifier": "class_gaussians",
                "selection": "average",
                "class_gaussians.own": 0.5,
                "class_gaussians.shrinkage": 0.6,
            },
            "class_gaussians: value error, own is 0.5 and shrinkage is 0.6, but together they may be 1 at most",
        ),
        (
            {"classifier": "fecam", "fecam.off_diagonal": 2.0},
            r"fecam: value error, off_diagonal is 2.0, but it may be as large as diagonal \(1.0\) at most",
        ),
        ({"average_scale": -1.0}, "average_scale: input should be greater than or equal to 0, found -1.0"),
        (
            {"selection": "nearest"},
            "selection: input should be 'query', 'oracle', 'latest', 'average', 'first', 'first_and_frozen' or 'all'",
        ),
        ({"tuning": "layerwise", "layerwise.attention": 1}, "layerwise.attention: input should be a valid boolean"),
        ({"tuning": "lora", "lora.rank": 0}, "lora.rank: input should be greater than or equal to 1, found 0"),
        ({"tuning": "lora", "lora.alpha": 0}, "lora.alpha: input should be greater than 0, found 0"),
        ({"tuning": "lora", "lora.mlp": "both"}, "lora.mlp: input should be a valid boolean"),
        ({"tuning": "ia3", "ia3.rank": 4}, "ia3.rank: extra inputs are not permitted"),
        ({"tuning": "layer_norm"}, "tuning 'layer_norm' is unknown: did you mean layernorm?"),
        ({"selector": "nearest"}, "selector 'nearest' is unknown: choose one of class_prototypes, entropy"),
        ({"classifier": "svm"}, "classifier 'svm' is unknown: choose one of aligned_softmax"),
    ],
)
def test_parameters_that_contradict_one_another_end_early(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), **changes)
    with pytest.raises(UserError, match=message):
        run_stage("method")
    assert not Path("artifacts/code").exists()


ADAPTED: dict[str, object] = {"tuned_tasks": "first", "selection": "first"}
VIEWS: dict[str, object] = {"classifier_views": 2}
STARTED: dict[str, object] = {"classifier_init": "auxiliary"}


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"tuning": "synqt", "classifier": classifier, **chosen}, "set selection: query, oracle or latest")
            for classifier, chosen in (
                ("softmax", ADAPTED),
                ("softmax", ADAPTED | {"selection": "first_and_frozen"}),
                ("ease", {"selection": "all"}),
            )
        ),
        *(
            (
                {"tuning": kind, "selection": "latest", "features": features},
                f"tuning: {kind} describes an image by the model's own output alone: set features: cls",
            )
            for kind in KINDS
            for features in ("cls_patch", "cls_2", "last_2")
            if find_kind(kind).asks_frozen or find_kind(kind).together
        ),
        *(
            (
                VIEWS | {"classifier": name},
                f"classifier: {name} learns from the images alone, .*set classifier_views: 0",
            )
            for name in ("lda", "ridge", "ridge_projected", "ranpac", "fecam", "cls", "aligned_softmax")
        ),
        (
            VIEWS | STARTED | {"classifier": "slca"},
            "classifier: slca trains no rows on views if it gets those of stage one: set classifier_views: 0",
        ),
        (
            VIEWS | {"training": "single_stage"},
            "the head of stage one as it is, without views: set classifier_views: 0",
        ),
        (
            {"classifier_views": 3, "min_crop": 1.0, "flip": True},
            "an image has at most two views: set classifier_views: 2, or a smaller min_crop",
        ),
        (STARTED | {"training": "single_stage"}, "takes the head of stage one as it is: set classifier_init: fresh"),
        *(
            (STARTED | {"classifier": name}, f"classifier: {name} starts from no rows: set classifier_init: fresh")
            for name in ("ncm", "lda", "ridge", "ridge_projected", "ranpac", "fecam", "cls", "aligned_softmax")
        ),
        (
            STARTED | {"tuning": "none"},
            "with tuning: none and tuned_tasks: all there is none: set classifier_init: fresh",
        ),
        (STARTED | ADAPTED, "with tuning: layernorm and tuned_tasks: first there is none: set classifier_init: fresh"),
        *(
            ({"selector": "entropy", **sizes}, "the head of a single class always is: set selector: key")
            for sizes in (
                {"classes_per_task": 1},
                {"classes_per_task": 1, "first_task_classes": 4},
                {"task_classes": [["class 0"], ["class 1"]]},
                {"task_classes": [["class 0", "class 1"], ["class 2"], ["class 3"]]},
            )
        ),
        *(
            (
                {"lr_schedule": "drop", "epochs": epochs},
                f"and {epochs} have none: set epochs: 10 or more, or lr_schedule",
            )
            for epochs in (1, 9)
        ),
    ],
)
def test_what_would_fail_later_or_be_ignored_ends_early(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), **changes)
    with pytest.raises(UserError, match=message):
        run_stage("method")
    assert not artifacts.METHOD.exists()


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "synqt", "selection": "oracle"},
        {"tuning": "layernorm", "features": "last_2"},
        *(VIEWS | {"classifier": name} for name in ("softmax", "ncm", "slca")),
        VIEWS | {"classifier": "carried_gaussians", "selection": "average"},
        VIEWS | {"tuning": "none"},
        VIEWS | STARTED,
        STARTED | {"classifier": "slca"},
        {"selector": "entropy", "task_classes": [["class 0", "class 1"], ["class 2", "class 3"], ["class 4"]]},
        {"selector": "entropy", "tuning": "none", "classes_per_task": 1},  # the key selects
        {"selector": "entropy", "selection": "latest", "classes_per_task": 1},  # nothing selects
        {"selector": "key", "classes_per_task": 1},
        {"lr_schedule": "drop", "epochs": 10},
        {"lr_schedule": "drop", "epochs": 1, "tuning": "none"},
    ],
    ids=str,
)
def test_what_means_something_is_not_refused(changes: dict[str, object]) -> None:
    set_params(Path("params.yaml"), **changes)
    run_stage("method")
    assert artifacts.METHOD.exists()


@pytest.mark.parametrize("name", names("classifier"))
def test_a_classifier_says_what_it_makes_of_views_and_of_a_start(name: str) -> None:
    """Heads learned from other views, or from another start, differ exactly if it says that they count."""
    own = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 3
    plain = TaskFeatures(own[None], own, own, labels)

    def learned(features: TaskFeatures, start: Head | None = None) -> Head:
        training = Training(8, 0.01, 2, start, torch.Generator().manual_seed(0), Progress("test", 0))
        return find_classifier(name).learn({}, features, training)[1]

    def differs(head: Head, other: Head) -> bool:
        return not torch.equal(head.weight, other.weight)

    classifier = find_classifier(name)
    viewed = replace(plain, views=torch.stack([own + 0.1, own - 0.2]))
    assert classifier.sees_views == differs(learned(viewed), learned(plain))
    start = Head(torch.ones(3, 8), torch.zeros(3))
    assert (classifier.start != "ignored") == differs(learned(plain, start), learned(plain))
    if classifier.start != "ignored":
        assert (classifier.start == "trained") == differs(learned(viewed, start), learned(plain, start))


def test_every_rule_is_words_with_a_remedy_and_values_that_are_there() -> None:
    known = read_mapping(ROOT / "params.yaml")
    assert Choices.model_fields.keys() <= known.keys()
    for _, words in RULES:
        assert words.format(**known)
        assert ": set " in words


@pytest.mark.usefixtures("tiny_repository")
def test_an_unknown_set_of_norms_is_one_line() -> None:
    run_stage("split")
    run_stage("queries", "t1")
    set_params(Path("params.yaml"), **{"layernorm.norms": "first_2"})
    with pytest.raises(UserError, match=r"layernorm\.norms: string should match pattern"):
        run_stage("stage_one", "t1")
