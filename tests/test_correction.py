"""Corrections against their definitions, image by image."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from harness.parameters import set_params
from harness.stage_repository import run_all
from pipeline.evaluation.correction import arc, retained_head
from pipeline.linear.head import Head
from pipeline.store import artifacts

CLASS_TASKS = torch.tensor([0, 0, 1, 1, 1, 2, 2])


def arc_of_one(z: list[float], gamma: float, temperature: float) -> int:
    """The formulas of arXiv 2405.14318 for one image, in plain Python."""
    tasks = CLASS_TASKS.tolist()
    now = max(tasks)
    answer = z.index(max(z))
    if tasks[answer] != now:
        return answer
    c = math.exp(max(v for v, t in zip(z, tasks, strict=True) if t == now)) / sum(map(math.exp, z))
    past = [v for v, t in zip(z, tasks, strict=True) if t < now]
    if c / (math.exp(max(past)) / sum(map(math.exp, past))) >= gamma:
        return answer
    scores, cooled = {now: c}, z
    for i in range(now - 1, -1, -1):
        cooled = [v / temperature for v in cooled]
        kept = [math.exp(v) for v, t in zip(cooled, tasks, strict=True) if t <= i]
        scores[i] = max(math.exp(v) for v, t in zip(cooled, tasks, strict=True) if t == i) / sum(kept)
    best = max(scores, key=lambda i: (scores[i], -i))
    allowed = [v if t <= best else -math.inf for v, t in zip(z, tasks, strict=True)]
    return allowed.index(max(allowed))


@given(st.integers(0, 10_000), st.floats(0.3, 3), st.floats(1, 3))
def test_arc_is_the_papers_rule(seed: int, gamma: float, temperature: float) -> None:
    logits = 2 * torch.randn(20, 7, generator=torch.Generator().manual_seed(seed))
    answers = arc(logits, CLASS_TASKS, gamma=gamma, temperature=temperature)
    for z, answer in zip(logits.tolist(), answers.tolist(), strict=True):
        assert answer == arc_of_one(z, gamma, temperature)


def test_arc_leaves_the_first_task_and_predictions_of_past_tasks_alone() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(arc(logits[:, :2], CLASS_TASKS[:2], gamma=9, temperature=2), logits[:, :2].argmax(1))
    past = CLASS_TASKS[logits.argmax(1)] < 2
    assert torch.equal(arc(logits, CLASS_TASKS, gamma=9, temperature=2)[past], logits.argmax(1)[past])
    assert not torch.equal(arc(logits, CLASS_TASKS, gamma=9, temperature=2), logits.argmax(1))


@pytest.mark.parametrize("quadratic", [False, True])
def test_retention_is_gradient_descent_on_confident_past_predictions(quadratic: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 5, generator=generator)
    head = Head(2 * torch.randn(7, 5, generator=generator), torch.randn(7, generator=generator))
    inputs, fixed = features, torch.zeros(12, 7)
    if quadratic:  # of features at length 1
        factors, offsets = torch.randn(7, 2, 5, generator=generator), torch.randn(7, 1, 2, generator=generator)
        head = head._replace(factors=factors, offsets=offsets, unit=torch.ones(7, dtype=torch.bool))
        inputs = features / features.norm(dim=1, keepdim=True)
        fixed = (torch.einsum("crd,nd->ncr", factors, inputs) - offsets[:, 0]).square().sum(2) / 2
    before = head.weight.clone()
    result = retained_head(head, features, CLASS_TASKS, beta=0.5, lr=0.1, generator=torch.Generator().manual_seed(1))
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    steps = 0
    for row in torch.randperm(12, generator=torch.Generator().manual_seed(1)):
        logits = functional.linear(inputs[row], weight, bias) + fixed[row]
        share = logits.softmax(0)
        if CLASS_TASKS[share.argmax()] == 2 or share.max() <= 0.5:
            continue
        steps += 1
        loss = functional.cross_entropy(logits, share.argmax()) - (share * share.log()).sum()
        gradients = torch.autograd.grad(loss, [weight, bias])
        weight, bias = ((t - 0.1 * g).detach().requires_grad_() for t, g in zip((weight, bias), gradients, strict=True))
    assert 0 < steps < 12
    torch.testing.assert_close(result.weight, weight.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.bias, bias.detach(), atol=1e-5, rtol=1e-4)
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize("gap", [50.0, 110.0, 200.0, 1e4])
def test_retention_follows_the_gradient_where_shares_round_to_zero(gap: float) -> None:
    """A share of 0 used to make the whole head NaN. The reference knows logarithms of shares, never a log of 0."""
    features = torch.tensor([[gap, 0.0], [0.0, 1.0], [0.5, 0.5]])
    head = Head(torch.tensor([[1.0, 1.0], [0.0, 0.2], [0.0, 0.1]]), torch.zeros(3))
    class_tasks = torch.tensor([0, 0, 1])
    found = retained_head(head, features, class_tasks, beta=0.3, lr=0.1, generator=torch.Generator().manual_seed(0))
    weight, bias = head.weight.double().requires_grad_(), head.bias.double().requires_grad_()
    for row in torch.randperm(3, generator=torch.Generator().manual_seed(0)):
        log_share = functional.linear(features[row].double(), weight, bias).log_softmax(0)
        assert class_tasks[log_share.argmax()] == 0
        loss = -log_share.max() - (log_share.exp() * log_share).sum()
        gradients = torch.autograd.grad(loss, [weight, bias])
        weight, bias = ((t - 0.1 * g).detach().requires_grad_() for t, g in zip((weight, bias), gradients, strict=True))
    torch.testing.assert_close(found.weight, weight.detach().float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.bias, bias.detach().float(), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("tiny_repository")
def test_a_correction_that_is_not_chosen_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.evaluate.corrected_predictions", lambda *_: pytest.fail("computed in vain"))
    set_params(Path("params.yaml"), correction="rematch")
    run_all(3)
    assert artifacts.load_tensors(artifacts.REMATCH)
