"""Metrics of class-incremental learning, from the accuracy matrix.

`matrix[t, j]` is the accuracy on the test images of task j after learning task t, for j <= t, as a fraction in [0, 1].
Entries above the diagonal are ignored; they may be NaN. If the test images are of no task, the matrix has one column:
the accuracy on all of them after each step. Forgetting then means nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]  # [T, T], or [T, 1]


def square(rows: Sequence[Sequence[float]]) -> Matrix:
    """An accuracy matrix from its rows up to the diagonal: [T, T], NaN above it; or [T, 1] from rows of one value."""
    return np.array([[*row, *[np.nan] * (len(rows[-1]) - len(row))] for row in rows])


def has_forgetting(matrix: Matrix) -> bool:
    """Whether there are earlier tasks that may be forgotten."""
    return len(matrix[0]) > 1


def average_accuracy(matrix: Matrix) -> float:
    """Mean over tasks of the final accuracies, each task with the same weight: mean_j a[T-1, j]."""
    return float(matrix[-1].mean())


def average_accuracies(matrix: Matrix) -> list[float]:
    """The average accuracy after each step, over the tasks seen by then."""
    return [float(matrix[step, : step + 1].mean()) for step in range(len(matrix))]


def accuracies_over_images(matrix: Matrix, images: Sequence[int]) -> list[float]:
    """The accuracy after each step, with the same weight for every image of the tasks seen by then.

    images: test images of each task [T]. It is what the PyCIL line reports; `average_accuracies` weights tasks alike.
    """
    counts = np.array(images, dtype=np.float64)
    return [
        float((matrix[step, : step + 1] * counts[: step + 1]).sum() / counts[: step + 1].sum())
        for step in range(len(matrix))
    ]


def average_incremental_accuracy(matrix: Matrix) -> float:
    """Mean over steps of the average accuracy (Rebuffi et al., iCaRL, arXiv 1611.07725)."""
    return float(np.mean(average_accuracies(matrix)))


def forgetting(matrix: Matrix, *, clipped: bool = False) -> float:
    """Mean over earlier tasks of the best accuracy so far minus the final one; 0 with a single task.

    Not clipped: the best before the last step, max_{l<T-1} a[l, j] (Chaudhry et al., arXiv 1801.10112); the result may
    be negative. Clipped: the best including the last step, as in the authors' code; the result is never negative.
    """
    last = len(matrix) - 1
    steps = last + 1 if clipped else last
    drops = [float(matrix[task:steps, task].max() - matrix[last, task]) for task in range(last)]
    return float(np.mean(drops)) if drops else 0.0


def forgetting_over_steps(matrix: Matrix) -> list[float]:
    """Forgetting after each step."""
    return [forgetting(matrix[:steps, :steps]) for steps in range(1, len(matrix) + 1)]
