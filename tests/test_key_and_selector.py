"""The closed-form key is the optimum of the paper's objective; the selector takes the most similar key."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from harness.tiny import selector_state
from pipeline.errors import UserError
from pipeline.selection.choose import SELECTIONS, Choice, SelectionName
from pipeline.selection.key import closed_form_key, cosine, trained_key
from pipeline.selection.selector import find_selector

OWN = torch.tensor([2, 0, 1])


def objective(key: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Mean cosine of a key [D] to queries [N, D], as the paper's code computes it."""
    return functional.cosine_similarity(queries, key[None], dim=1).mean()


def tasks_of(selection: SelectionName, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return Choice(SELECTIONS[selection], find_selector("key"), selector_state(keys)).tasks(queries, OWN)


def test_closed_form_key_is_where_gradient_descent_on_the_objective_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(200, 24, generator=generator) * torch.rand(200, 1, generator=generator) + 0.3
    key = torch.randn(24, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([key], lr=0.05)
    for _ in range(1500):
        optimiser.zero_grad()
        (-objective(key, queries)).backward()
        optimiser.step()
    closed = closed_form_key(queries)
    torch.testing.assert_close(functional.normalize(key.detach(), dim=0), closed, atol=1e-3, rtol=0)
    assert objective(closed, queries) >= objective(key.detach(), queries) - 1e-6


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(2, 8))
def test_no_direction_is_better_than_the_closed_form_key(seed: int, count: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(count, dim, generator=generator)
    best = objective(closed_form_key(queries), queries)
    for other in torch.randn(20, dim, generator=generator):
        assert objective(other, queries) <= best + 1e-5


def test_key_does_not_depend_on_the_lengths_of_the_queries() -> None:
    queries = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(closed_form_key(queries), closed_form_key(queries * torch.arange(1, 31)[:, None]))


def test_selects_the_key_of_the_smallest_angle() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 5.0]])  # the length of a key says nothing
    queries = torch.tensor([[9.0, 1.0], [0.1, 0.2], [-1.0, -0.1]])
    assert tasks_of("query", queries, keys).tolist() == [0, 1, 1]
    torch.testing.assert_close(cosine(queries, keys)[0], torch.tensor([9.0, 1.0]) / 82**0.5)


def test_unknown_selector_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="selector 'nearest' is unknown: choose one of class_prototypes"):
        find_selector("nearest")


def test_the_oracle_and_the_latest_need_no_query() -> None:
    keys = torch.ones(4, 2)
    assert tasks_of("oracle", torch.empty(0), keys).tolist() == [2, 0, 1]
    assert tasks_of("latest", torch.empty(0), keys).tolist() == [3, 3, 3]


def test_a_trained_key_approaches_the_closed_form() -> None:
    queries = torch.randn(200, 24, generator=torch.Generator().manual_seed(0)) + 0.5
    closed = closed_form_key(queries)
    few, many = (
        trained_key(queries, lr=0.01, epochs=epochs, generator=torch.Generator().manual_seed(0)) @ closed
        for epochs in (5, 400)
    )
    assert few < 0.9
    assert many > 0.999
