"""The methods that C-LN is compared with: presets run and cost what they should; closed forms against references."""

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn import functional

from harness.parameters import PLAIN, set_params
from harness.root import ROOT
from harness.stage_order import run_stage
from harness.stage_repository import frozen_flops, run_all
from pipeline.classification.classifier import TaskFeatures, Training
from pipeline.classification.classifiers import ease, ranpac
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.inference.manifest import read_manifest
from pipeline.params import read_mapping
from pipeline.progress import Progress
from pipeline.store import artifacts
from stages import predict

PRESETS = sorted((ROOT / "presets/methods").glob("*.yaml"))
DIM, BLOCKS, TASKS = 16, 2, 3
ADAPTERS = BLOCKS * (2 * DIM * 4 + 4 + DIM)
COSTS = {  # numbers per task, passes at inference
    "simplecil": (0, 1),
    "fecam": (0, 1),
    "ranpac": (ADAPTERS, 1),
    "aper": (ADAPTERS, 2),
    "ease": (ADAPTERS, TASKS),
    "slca": (0, 1),
    "l2p": (4 * 2 * DIM + 4 * DIM, 2),
    "dualprompt": (2 * 2 * DIM + 2 * 2 * DIM + DIM, 2),
    "coda_prompt": (2 * 2 * (4 + 2) * DIM, 2),
}
FAST = {"epochs": 2, "batch_size": 10}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("file", PRESETS, ids=[file.stem for file in PRESETS])
def test_a_preset_runs_costs_what_it_should_and_predicts_what_was_evaluated(file: Path) -> None:
    small = {name: PLAIN[name] for name in ("adapter", "l2p", "dualprompt", "coda_prompt")}
    params = {**read_mapping(file), **small, **FAST}
    set_params(Path("params.yaml"), **{**params, **({"lr_schedule": "constant"} if file.stem == "slca" else {})})
    run_all(TASKS)
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    numbers, passes = COSTS[file.stem]
    assert metrics["passes_at_inference"] == passes
    if file.stem != "slca":
        assert metrics["task_parameters"] == numbers
    frozen = frozen_flops() / 1e9
    assert passes * frozen <= metrics["gflop_at_inference"] < 1.6 * passes * frozen
    test = artifacts.load_tensors(artifacts.TEST)
    covered = (test["tasks"] < TASKS).nonzero().flatten()
    images = Images.from_tensors(test)
    learner = predict.load_learner(read_manifest().settings)
    _, logits = learner.predict(images[covered])
    accuracy = (logits.argmax(1) == test["labels"][covered]).float().mean()
    assert float(accuracy) == pytest.approx(metrics["average_accuracy"], abs=1e-6)
    shuffled = covered[torch.randperm(len(covered), generator=torch.Generator().manual_seed(0))]
    _, other = learner.predict(images[shuffled])
    torch.testing.assert_close(other, logits[shuffled], atol=1e-4, rtol=1e-4)
    assert torch.equal(other.argmax(1), logits.argmax(1)[shuffled]), "an image does not see the others of its batch"


def test_the_sweep_has_the_recipes_of_the_presets() -> None:
    variants = read_mapping(ROOT / "sweeps/methods.yaml")["variants"]
    of_files = {file.stem.replace("_", "").lower(): read_mapping(file) for file in PRESETS}
    found = {name.replace("-", "").lower(): values for name, values in variants.items() if "C-LN" not in name}
    assert found.keys() == of_files.keys()
    for name, preset in of_files.items():
        flat: dict[str, object] = {}
        for key, value in preset.items():
            options = value if isinstance(value, dict) else {}
            flat |= {f"{key}.{option}": one for option, one in options.items()} if options else {key: value}
        assert found[name] == flat


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned_tasks": "first"}, "tuned_tasks: first leaves one model for all tasks: set selection: first"),
        ({"selection": "first"}, "this selection uses only what the first task tunes: set tuned_tasks: first"),
        ({"selection": "all"}, "selection: all makes features longer with every task: set classifier: ease"),
        (
            {"selection": "all", "classifier": "fecam"},
            "selection: all makes features longer with every task: set classifier: ease",
        ),
        (
            {"selection": "all", "classifier": "ease", "training": "single_stage"},
            "selection: all makes features longer with every task: set classifier: ease",
        ),
        ({"tuning": "l2p"}, "tuning: l2p keeps no model of earlier tasks: set selection: latest"),
        (
            {"tuning": "coda_prompt", "selection": "latest", "tuning_init": "pretrained"},
            "tuning: coda_prompt continues earlier prompts: set tuning_init: previous",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_line(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), **changes)
    with pytest.raises(UserError, match=message):
        run_stage("method")


def training() -> Training:
    return Training(8, 0.01, 1, None, torch.Generator().manual_seed(0), Progress("test", 0))


def features_of(task: int, classes: int = 3, per_class: int = 10, dim: int = 8) -> TaskFeatures:
    generator = torch.Generator().manual_seed(task)
    labels = torch.arange(classes).repeat_interleave(per_class)
    own = torch.randn(classes, dim, generator=generator)[labels] + torch.randn(len(labels), dim, generator=generator)
    return TaskFeatures(own[None], own, None, labels)


def test_ranpac_s_rows_are_those_of_scikit_learn_s_ridge_on_all_tasks_at_once() -> None:
    tasks = [features_of(0), features_of(1)]
    state: dict[str, torch.Tensor] = {}
    for task in tasks:
        state, head = ranpac.learn(state, task, training())
    assert head.projection is not None
    inputs = torch.cat([(task.own @ head.projection[:-1]).relu() for task in tasks]).double()
    targets = functional.one_hot(torch.cat([tasks[0].labels, 3 + tasks[1].labels])).double()
    order = torch.Generator().manual_seed(0)
    torch.randn(8, len(head.projection.T), generator=order)
    rows = torch.randperm(30, generator=order)
    last = (inputs[30:][rows], targets[30:, 3:][rows])
    errors = {}
    for strength in ranpac.STRENGTHS:
        fitted = Ridge(alpha=strength, fit_intercept=False, solver="svd")
        fitted.fit(last[0][:24].numpy(), last[1][:24].numpy())
        errors[strength] = ((fitted.predict(last[0][24:].numpy()) - last[1][24:].numpy()) ** 2).mean()
    best = min(errors, key=lambda strength: errors[strength])
    assert ranpac.best_strength(*last) == best
    expected = Ridge(alpha=best, fit_intercept=False, solver="svd").fit(inputs.numpy(), targets.numpy())
    torch.testing.assert_close(head.weight.double(), torch.from_numpy(expected.coef_), atol=1e-5, rtol=1e-4)
    assert not head.bias.any()
    assert len(head.projection.T) == round(10_000 / 768 * 8)


def test_ease_s_prototypes_and_scores_are_those_written_out() -> None:
    unit, cosine = functional.normalize, functional.cosine_similarity
    state: dict[str, torch.Tensor] = {}
    means = []  # per class, in the subspaces of all tasks up to its own
    for task in range(3):
        views = [unit(features_of(10 * task + subspace, dim=4).own, dim=1) for subspace in range(task + 1)]
        labels = features_of(task).labels
        features = TaskFeatures(torch.cat(views, 1)[None], views[-1], None, labels)
        state, head = ease.learn(state, features, training())
        means += [[view[labels == c].mean(0) for view in views] for c in range(3)]

    def mixed(c: int, subspace: int) -> torch.Tensor:
        later = [other for other in means if len(other) > subspace]
        own = len(means[c]) - 1
        shares = torch.stack([cosine(means[c][own], other[own], dim=0) for other in later]).softmax(0)
        return sum((share * other[subspace] for share, other in zip(shares, later, strict=True)), torch.zeros(4))

    query = [unit(torch.randn(4), dim=0) for _ in range(3)]
    scores = []
    for c, known in enumerate(means):
        prototypes = [known[s] if s < len(known) else mixed(c, s) for s in range(3)]
        cosines = [cosine(part, prototype, dim=0) for part, prototype in zip(query, prototypes, strict=True)]
        own = cosines.pop(len(known) - 1)
        scores.append(own + 0.1 * (cosines[0] + cosines[1]) / 2)
    torch.testing.assert_close(head.logits(torch.cat(query)[None])[0], torch.stack(scores), atol=1e-5, rtol=1e-5)
