"""Each closed form against its textbook definition (scikit-learn if it has one), and recursive against batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from pipeline.classification.classifiers import cls
from pipeline.linear import gaussians, ridge
from pipeline.linear.head import random_features

DIM = 6


def two_tasks(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Features and labels of two tasks, of three and two classes of unequal sizes."""
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for classes in (3, 2):
        labels = torch.cat([torch.arange(classes), torch.randint(classes, (40,), generator=generator)])
        centres = 2 * torch.randn(classes, DIM, generator=generator)
        tasks.append((centres[labels] + torch.randn(len(labels), DIM, generator=generator), labels))
    return tasks


def together(tasks: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    (first, first_labels), (second, second_labels) = tasks
    return torch.cat([first, second]), torch.cat([first_labels, second_labels + first_labels.max() + 1])


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.7]))
def test_linear_discriminant_task_by_task_is_scikit_learns(seed: int, shrinkage: float) -> None:
    tasks = two_tasks(seed)
    state = gaussians.no_gaussians(DIM)
    for features, labels in tasks:
        state = gaussians.add_classes(state, features, labels)
    features, labels = together(tasks)
    # Priors weight the classes in its covariance; with those of the data it is the pooled one. Only the bias has them.
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None).fit(features, labels)
    head = gaussians.linear_discriminant(state, shrinkage)
    np.testing.assert_allclose(head.weight, reference.coef_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(head.bias, reference.intercept_ - np.log(reference.priors_), rtol=1e-3, atol=1e-3)


@given(st.integers(0, 1000))
def test_ridge_task_by_task_is_scikit_learns_in_any_order(seed: int) -> None:
    tasks = two_tasks(seed)
    state = ridge.no_ridge(DIM)
    for features, labels in tasks:
        state = ridge.add_task(state, features, labels)
    head = ridge.solve(state, 0.1)
    features, labels = together(tasks)
    inputs = torch.nn.functional.pad(features, (0, 1), value=1.0)
    strength = 0.1 * float((inputs.T @ inputs).trace()) / (DIM + 1)
    reference = SklearnRidge(alpha=strength, fit_intercept=False).fit(inputs, torch.nn.functional.one_hot(labels))
    np.testing.assert_allclose(head.weight, reference.coef_[:, :-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(head.bias, reference.coef_[:, -1], rtol=1e-3, atol=1e-4)

    swapped = ridge.no_ridge(DIM)
    for features, labels in reversed(tasks):
        swapped = ridge.add_task(swapped, features, labels)
    other = ridge.solve(swapped, 0.1)
    torch.testing.assert_close(torch.cat([other.weight[2:], other.weight[:2]]), head.weight, atol=1e-5, rtol=1e-4)


def test_samples_have_the_means_and_the_covariance() -> None:
    state = gaussians.no_gaussians(DIM)
    for features, labels in two_tasks(3):
        state = gaussians.add_classes(state, features, labels)
    drawn, labels = gaussians.sample(state, 20_000, 0.2, torch.Generator().manual_seed(0))
    again = gaussians.add_classes(gaussians.no_gaussians(DIM), drawn, labels)
    torch.testing.assert_close(again.means, state.means, atol=0.05, rtol=0)
    torch.testing.assert_close(gaussians.covariance(again, 0), gaussians.covariance(state, 0.2), atol=0.05, rtol=0)


@given(st.integers(0, 1000))
def test_a_linear_move_is_followed_exactly_and_a_stubborn_one_not_at_all(seed: int) -> None:
    (features, labels), (probe, _) = two_tasks(seed)
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.eye(DIM) + 0.3 * torch.randn(DIM, DIM, generator=generator)
    move = torch.randn(DIM, generator=generator)
    state = gaussians.add_classes(gaussians.no_gaussians(DIM), features, labels)
    expected = gaussians.add_classes(gaussians.no_gaussians(DIM), features @ matrix + move, labels)
    carried = gaussians.carry(state, gaussians.fit_move(probe, probe @ matrix + move, penalty=0.0))
    torch.testing.assert_close(carried.means, expected.means, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(carried.scatter, expected.scatter, atol=1e-1, rtol=1e-2)
    shifted = gaussians.carry(state, gaussians.fit_move(probe, probe @ matrix + move, penalty=1e9))
    shift = (probe @ matrix + move - probe).double().mean(0)
    torch.testing.assert_close(shifted.means, state.means + shift, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(shifted.scatter, state.scatter, atol=1e-3, rtol=1e-3)


def test_a_random_projection_widens_and_rectifies() -> None:
    features, layer = torch.randn(5, DIM), torch.randn(DIM + 1, 50)
    widened = random_features(features, layer)
    torch.testing.assert_close(widened, (features @ layer[:DIM] + layer[DIM]).clamp(min=0))


def test_first_task_of_cls_is_least_squares() -> None:
    (features, labels), _ = two_tasks(0)
    one_hot = torch.nn.functional.one_hot(labels).double()
    state = cls.add_task({}, features, labels)
    expected = torch.linalg.lstsq(features.double(), one_hot).solution
    torch.testing.assert_close(state["weights"], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("fisher", ["mean", "images"])
def test_later_tasks_of_cls_solve_the_papers_equation_class_by_class(fisher: cls.Fisher) -> None:
    """Also, weights hardly move where an old task's Fisher information is large: that of single images is."""
    (first, first_labels), (second, second_labels) = two_tasks(1)
    before = cls.add_task({}, first, first_labels, fisher=fisher)
    after = cls.add_task(before, second, second_labels, fisher=fisher)
    units = second.double()
    targets = torch.nn.functional.one_hot(second_labels + 3, 5).double()
    for c in range(5):
        anchor = before["anchor"][:, c] if c < 3 else torch.zeros(DIM).double()
        optimum = (
            before["weights"][:, c] if c < 3 else torch.zeros(DIM).double()
        )  # of the first task: also its B before
        left = units.T @ units + anchor.diag() + torch.eye(DIM)
        right = units.T @ targets[:, c] + anchor * optimum + optimum
        torch.testing.assert_close(left @ after["weights"][:, c], right)
    moved = (after["weights"][:, :3] - before["weights"]).norm() / before["weights"].norm()
    assert (moved < 0.05) == (fisher == "images")


@pytest.mark.parametrize("fisher", ["mean", "images"])
def test_fisher_information_of_cls_is_made_of_gradients(fisher: cls.Fisher) -> None:
    """Of the mean loss as published, or of each image; at the least squares optimum of the task alone, in any task."""
    tasks = two_tasks(2)
    state: dict[str, Tensor] = {}
    for features, labels in tasks:
        before = state
        state = cls.add_task(before, features, labels, fisher=fisher)
        units, targets = features.double(), labels + (len(before["weights"].T) if before else 0)
        one_hot = torch.nn.functional.one_hot(targets, state["weights"].shape[1]).double()
        optimum = torch.linalg.lstsq(units, one_hot).solution.requires_grad_()
        losses = torch.nn.functional.cross_entropy(units @ optimum, targets, reduction="none")
        of = losses if fisher == "images" else [losses.mean()]
        squares = [torch.autograd.grad(loss, optimum, retain_graph=True)[0].square() for loss in of]
        expected = torch.stack(squares).sum(0) * (1 if fisher == "images" else len(labels))
        old = torch.nn.functional.pad(before["anchor"], (0, 2)) if before else torch.zeros(()).double()
        torch.testing.assert_close(state["anchor"] - old, cls.STRENGTH * expected, atol=1e-6, rtol=1e-5)
