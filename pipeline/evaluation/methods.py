"""The rows that every result compares: what they are called, and in which runs they mean something."""

from collections.abc import Mapping

METHODS = {
    "c_ln": "C-LN",
    "c_ln_lda": "C-LN, linear discriminant",
    "single_stage": "C-LN, single training stage",
    "oracle": "C-LN, true task given",
    "frozen": "frozen backbone, same head",
    "frozen_ncm": "frozen backbone, nearest class mean",
    "frozen_lda": "frozen backbone, linear discriminant",
}
ACCURACIES = {row: "average_accuracy" if row == "c_ln" else f"{row}_accuracy" for row in METHODS}  # in metrics.json
BASELINES = ("frozen", "frozen_ncm", "frozen_lda")  # that tune nothing


def methods_of(*, selects: bool, tunes: bool) -> list[str]:
    """The rows that mean something, where a task's LayerNorms are chosen for each image or not, and tuned or not.

    Where one model serves all tasks, nobody can be told whose LayerNorms to use: the model as it once was does not fit
    the head as it is now. Where nothing is tuned, no head is trained beside LayerNorms.
    """
    means_something = {"oracle": selects, "single_stage": tunes}
    return [row for row in METHODS if means_something.get(row, True)]


def verdict(accuracies: Mapping[str, float]) -> str:
    """C-LN beside the best baseline of this run, in a sentence; accuracies: fractions, of rows."""
    best = max((row for row in BASELINES if row in accuracies), key=lambda row: accuracies[row])
    return f"C-LN {_compared(accuracies['c_ln'] - accuracies[best])} the best baseline ({METHODS[best]})."


def worth_of_tuning(accuracies: Mapping[str, float]) -> str:
    """What the LayerNorms add behind one and the same classifier, in a sentence."""
    gain = accuracies["c_ln_lda"] - accuracies["frozen_lda"]
    return f"With a linear discriminant as head, it {_compared(gain)} the frozen backbone with the same."


def _compared(gain: float) -> str:
    points = f"{abs(100 * gain):.1f}"
    if points == "0.0":
        return "is as accurate as"
    return f"is {points} points {'above' if gain > 0 else 'below'}"
