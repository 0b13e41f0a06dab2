"""Parameters that contradict one another are refused in one line, by the first stage that can know."""

from pathlib import Path

import pytest

from harness.parameters import set_params
from harness.stage_order import run_stage
from pipeline.errors import UserError


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


@pytest.mark.usefixtures("tiny_repository")
def test_an_unknown_set_of_norms_is_one_line() -> None:
    run_stage("split")
    run_stage("queries", "t1")
    set_params(Path("params.yaml"), **{"layernorm.norms": "first_2"})
    with pytest.raises(UserError, match=r"layernorm\.norms: string should match pattern"):
        run_stage("stage_one", "t1")
