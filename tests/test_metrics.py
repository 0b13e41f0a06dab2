"""Metrics against numbers worked out by hand, and their invariants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.evaluation import metrics

nan = np.nan
MATRIX = np.array([[0.9, nan, nan], [0.6, 0.8, nan], [0.7, 0.9, 0.5]])


def test_by_hand() -> None:
    assert metrics.average_accuracy(MATRIX) == pytest.approx(0.7)
    assert metrics.average_accuracies(MATRIX) == pytest.approx([0.9, 0.7, 0.7])
    assert metrics.average_incremental_accuracy(MATRIX) == pytest.approx(2.3 / 3)
    assert metrics.forgetting(MATRIX) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.9)) / 2)
    assert metrics.forgetting(MATRIX, clipped=True) == pytest.approx((0.9 - 0.7) / 2)
    assert metrics.forgetting_over_steps(MATRIX) == pytest.approx([0, 0.3, 0.05])


def test_over_images_every_image_has_the_same_weight() -> None:
    assert metrics.accuracies_over_images(MATRIX, [10, 20, 70]) == pytest.approx(
        [0.9, (6 + 16) / 30, (7 + 18 + 35) / 100]
    )
    assert metrics.accuracies_over_images(MATRIX, [5, 5, 5]) == pytest.approx(metrics.average_accuracies(MATRIX))


def test_one_task_forgets_nothing() -> None:
    assert metrics.forgetting(np.array([[0.4]])) == 0
    assert metrics.forgetting(np.array([[0.4]]), clipped=True) == 0


@given(st.integers(1, 6).flatmap(lambda n: arrays(np.float64, (n, n), elements=st.floats(0, 1))))
def test_invariants(matrix: np.ndarray) -> None:
    assert 0 <= metrics.average_accuracy(matrix) <= 1
    assert 0 <= metrics.average_incremental_accuracy(matrix) <= 1
    plain, clipped = metrics.forgetting(matrix), metrics.forgetting(matrix, clipped=True)
    assert -1 <= plain <= clipped <= 1
    assert clipped >= 0
    noise = np.triu(np.full_like(matrix, 7.0), 1)  # nothing above the diagonal is ever read
    assert metrics.forgetting(np.tril(matrix) + noise) == plain
    assert metrics.average_accuracies(np.tril(matrix) + noise) == metrics.average_accuracies(matrix)
