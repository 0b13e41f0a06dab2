"""`classifier: slca` against what is published, written out with autograd: statistics, samples, loss and schedule."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.classification import lone
from pipeline.classification.classifier import TaskFeatures, Training
from pipeline.classification.classifiers import slca
from pipeline.classification.classifiers.slca import Options, learn, loss_and_slope
from pipeline.linear.class_covariances import ClassCovariances
from pipeline.linear.head import Head, new_head
from pipeline.progress import Progress

DIM = 6
SIZES = (2, 3, 1)  # classes of each task; the last one is alone


def draw(task: int, per_class: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(task)
    labels = torch.arange(SIZES[task]).repeat_interleave(per_class)
    mixing = torch.randn(SIZES[task], DIM, DIM, generator=generator)
    noise = torch.randn(len(labels), 1, DIM, generator=generator) @ mixing[labels]
    return 2 * torch.randn(SIZES[task], DIM, generator=generator)[labels] + noise[:, 0], labels


def start_of(task: int) -> Head:
    """Rows as stage one leaves them, those of later tasks longer."""
    head = new_head(SIZES[task], DIM, torch.Generator().manual_seed(task))
    return Head(10 * (task + 1) * head.weight, head.bias + task)


def learned(tasks: int, options: Options, per_class: int = 8) -> tuple[dict[str, Tensor], list[Head]]:
    """State and heads after these tasks, the last one with the generator 7."""
    state: dict[str, Tensor] = {}
    heads = []
    for task in range(tasks):
        features, labels = draw(task, per_class)
        generator = torch.Generator().manual_seed(7)
        training = Training(8, 0.01, 1, start_of(task), generator, Progress("test", 0), options=options)
        given = TaskFeatures(features[None], features, features, labels, task=task)
        state, head = learn(state, given, training)
        heads.append(head)
    return state, heads


def reference_loss(logits: Tensor, labels: Tensor, sizes: tuple[int, ...], temperature: float) -> Tensor:
    norms = [part.norm(dim=1, keepdim=True) + 1e-7 for part in logits.split(sizes, 1)]
    return functional.cross_entropy(logits / torch.cat(norms, 1).mean(1, keepdim=True) / temperature, labels)


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_the_loss_and_its_gradient_are_those_of_autograd(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(6, (40,), generator=generator)
    expected = reference_loss(logits, labels, SIZES, temperature)
    members = functional.one_hot(torch.tensor([0, 0, 1, 1, 1, 2])).double()
    loss, slope = loss_and_slope(logits.detach(), labels, members, temperature)
    torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, logits)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tasks", [2, 3])
def test_rows_are_aligned_by_the_published_steps(tasks: int) -> None:
    options = Options(samples=16, epochs=3, lr=0.05, temperature=0.1)
    state, heads = learned(tasks, options)
    sizes = SIZES[:tasks]
    weight, bias = lone._head(state)[:2]  # that of the class alone is made from its mean
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimiser = torch.optim.SGD([weight, bias], lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=3)
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        noise = torch.randn(sum(sizes), 16, DIM, generator=generator)
        drawn: list[Any] = []
        for task in range(tasks):
            features, labels = draw(task)
            for c in range(sizes[task]):
                of_class = features[labels == c].double().numpy()
                covariance = np.cov(of_class.T) + 1e-4 * np.eye(DIM)
                mean = of_class.mean(0) * (0.9 + 0.1 * (task + 1) / tasks)
                root = np.linalg.cholesky(covariance)
                drawn.append(mean + noise[len(drawn)].double().numpy() @ root.T)
        samples = torch.from_numpy(np.concatenate(drawn)).float()
        order = torch.randperm(len(samples), generator=generator)
        for rows in order.split(16):
            loss = reference_loss(functional.linear(samples[rows], weight, bias), rows // 16, sizes, 0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    torch.testing.assert_close(heads[-1].weight, weight.detach(), atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(heads[-1].bias, bias.detach(), atol=2e-4, rtol=1e-3)


def test_the_rows_of_stage_one_are_kept_and_the_first_head_is_not_aligned() -> None:
    state, heads = learned(3, Options(samples=16))
    torch.testing.assert_close(heads[0].weight, start_of(0).weight, atol=0, rtol=0)
    expected = torch.cat([start_of(0).weight, start_of(1).weight])
    assert torch.equal(state["weight"][:5], expected)
    assert not torch.allclose(heads[2].weight[:5], expected, atol=1e-3)
    assert heads[2].tasks is not None
    assert heads[2].tasks.tolist() == [0, 0, 1, 1, 1, 2]


def test_samples_have_the_unbiased_covariance_and_a_little_more() -> None:
    state, _ = learned(2, Options(samples=1, epochs=1))
    statistics = ClassCovariances(state["counts"], state["means"], state["scatters"])
    roots = slca.roots_of(statistics).double()
    for row, (task, c) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]):
        features, labels = draw(task)
        expected = np.cov(features[labels == c].double().numpy().T) + 1e-4 * np.eye(DIM)
        np.testing.assert_allclose((roots[row] @ roots[row].T).numpy(), expected, atol=1e-4, rtol=1e-4)


def test_the_alignment_mends_rows_that_favour_a_task() -> None:
    generator = torch.Generator().manual_seed(3)
    centres = 3 * torch.randn(6, DIM, generator=generator)
    labels = torch.arange(6).repeat_interleave(50)
    features = centres[labels] + torch.randn(300, DIM, generator=generator)
    state: dict[str, Tensor] = {}
    for task in range(3):  # two classes each, which their rows tell apart; all favour the newest task
        mine = labels // 2 == task
        own, rows = features[mine], centres[2 * task : 2 * task + 2]
        start = Head(0.05 * rows, 0.05 * (-rows.square().sum(1) / 2 + 30 * task))
        training = Training(8, 0.01, 1, start, generator, Progress("test", 0), options=Options(epochs=20))
        state, head = learn(state, TaskFeatures(own[None], own, own, labels[mine] - 2 * task, task=task), training)
    before = functional.linear(features, state["weight"], state["bias"]).argmax(1)
    assert (before == labels).float().mean() < 0.6
    assert (head.logits(features).argmax(1) == labels).float().mean() > 0.95


def test_a_class_of_one_image_is_sampled_around_it() -> None:
    _, heads = learned(3, Options(samples=16), per_class=1)
    assert all(bool(tensor.isfinite().all()) for tensor in (heads[2].weight, heads[2].bias))
