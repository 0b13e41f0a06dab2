"""A class alone in its task, first or later: every classifier learns it, and nothing is trained in vain."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.parameters import set_params
from harness.stage_repository import run_all
from pipeline.classification import lone
from pipeline.classification.classifier import State, TaskFeatures, Training, find_classifier
from pipeline.linear.head import Head
from pipeline.parts import names
from pipeline.progress import Progress
from pipeline.selection.selectors.entropy import lowest_entropy
from pipeline.store import artifacts

PER_CLASS = 40
CENTRES = 2 * torch.randn(12, 24, generator=torch.Generator().manual_seed(0)) + 3  # off the origin


def samples(seed: int) -> torch.Tensor:
    """[12, PER_CLASS, 24]."""
    return CENTRES[:, None] + torch.randn(12, PER_CLASS, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [(10, 1, 1), (1, 1, 10), (1, 10, 1), (1,) * 12])
@pytest.mark.parametrize("name", names("classifier"))
def test_a_class_alone_is_learned_beside_the_others(name: str, sizes: tuple[int, ...]) -> None:
    state: State = {}
    start = 0
    for task, size in enumerate(sizes):
        own = samples(1)[start : start + size].flatten(0, 1)
        labels = torch.arange(size).repeat_interleave(PER_CLASS)
        training = Training(64, 0.005, 20, None, torch.Generator().manual_seed(start), Progress("test", 0))
        state, head = find_classifier(name).learn(state, TaskFeatures(own[None], own, own, labels, task=task), training)
        start += size
    right = head.logits(samples(2).flatten(0, 1)).argmax(1).view(12, PER_CLASS) == torch.arange(12)[:, None]
    of_classes = right.float().mean(1)
    if name == "cls":  # it forgets the first of six tasks of two classes as well; the newest is always learned
        assert of_classes[-1] > 0.9
        assert of_classes.mean() > (0.3 if 10 in sizes else 0.2)
        assert of_classes[0] > 0.5 or sizes != (1, 1, 10)  # not so without a gradient of its own
    else:
        assert of_classes.mean() > 0.9
        assert of_classes.min() > 0.5, of_classes


def test_the_row_of_a_class_alone_is_from_the_centre_to_its_mean_and_as_long_as_the_others() -> None:
    features, labels = samples(1)[:2].flatten(0, 1), torch.arange(2).repeat_interleave(PER_CLASS)
    trained = Head(torch.randn(2, 24), torch.randn(2))
    state, first = lone.add_task({}, features, labels, lambda: trained)
    assert torch.equal(first.weight, trained.weight)
    alone = samples(1)[2]
    after, head = lone.add_task(state, alone, torch.zeros(PER_CLASS, dtype=torch.int64), lambda: pytest.fail("trained"))
    assert torch.equal(head.weight[:2], trained.weight)
    centre = samples(1)[:3].mean(1).mean(0)
    torch.testing.assert_close(after["centre"], centre)
    assert head.weight[2].norm() == pytest.approx(float(trained.weight.norm(dim=1).mean()))
    torch.testing.assert_close(head.logits(centre[None])[0, 2], torch.tensor(0.0), atol=1e-4, rtol=0)
    cosine = torch.cosine_similarity(head.weight[2], alone.mean(0) - centre, dim=0)
    assert float(cosine) == pytest.approx(1)


def test_a_head_of_one_class_is_never_the_surest() -> None:
    unsure, alone = torch.zeros(3, 2), torch.full((3, 1), 9.0)
    assert lowest_entropy([alone, unsure + torch.tensor([0.1, 0])]).tolist() == [1, 1, 1]


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": "single_stage"},
        {"classifier_init": "auxiliary", "tuning_init": "pretrained"},
        {"classifier": "slca"},
        {"tuning": "layerwise"},
        {"selection": "latest", "tuning": "full"},
        {"selection": "latest", "order": "joint"},
        {"tuning": "none"},
    ],
)
def test_tasks_of_one_class_go_through_all_stages(
    changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [[f"class {c}" for c in task] for task in ((0, 1, 2, 3), (4,), (5,))]
    set_params(Path("params.yaml"), task_classes=names, classifier_epochs=40, epochs=10, **changes)
    capsys.readouterr()
    run_all(3)
    printed = capsys.readouterr().out
    joint, single = changes.get("order") == "joint", changes.get("training") == "single_stage"
    trains = joint or "layerwise" in changes.values()
    assert ("stage one, t2: a single class leaves nothing to tell apart" in printed) == (
        not trains and "none" not in changes.values()
    )
    assert ("stage two, t3: a softmax over one class learns nothing" in printed) == (not joint)
    assert ("stage one, t2: epoch" in printed) == trains
    bank = load_file(artifacts.bank_file("t3"))
    if not (trains or "full" in changes.values() or "none" in changes.values()) and "tuning_init" not in changes:
        assert all(torch.equal(rows[1], rows[0]) and torch.equal(rows[2], rows[0]) for rows in bank.values())
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    of_tasks = matrices["c_ln"][-1]
    assert min(of_tasks) > 0.15, of_tasks
    assert "none" in changes.values() or single == (matrices["c_ln"] == matrices["single_stage"])


@pytest.mark.usefixtures("tiny_repository")
def test_the_certainty_of_heads_selects_among_tasks_of_several_classes() -> None:
    names = [[f"class {c}" for c in task] for task in ((0, 1, 2), (3, 4), (5,))]
    set_params(Path("params.yaml"), task_classes=names, classifier_epochs=40, epochs=10, selector="entropy")
    run_all(3)
    chosen = torch.tensor(artifacts.load_json(artifacts.EVALUATION)["selection"])
    assert bool((chosen.sum(0)[:2] > 0).all())
    assert chosen[:, 2].sum() == 0, "the head of a single class is never the surest"


@pytest.mark.usefixtures("tiny_repository")
def test_without_tuning_stage_one_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.stage_one.build_backbone", lambda *_, **__: pytest.fail("a backbone"))
    set_params(Path("params.yaml"), tuning="none", training="single_stage")
    run_all(3)
    matrices = artifacts.load_json(artifacts.EVALUATION)["matrices"]
    assert matrices["frozen"] == matrices["c_ln"]
    assert not load_file(artifacts.auxiliary_heads_file("t3"))
