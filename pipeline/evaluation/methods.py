"""The rows that every result compares: their names, and the runs in which they are meaningful."""

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
ACCURACIES = {row: "average_accuracy" if row == "c_ln" else f"{row}_accuracy" for row in METHODS}  # metrics
BASELINES = ("frozen", "frozen_ncm", "frozen_lda")  # they tune nothing


def methods_of(*, selects: bool, tunes: bool, side_by_side: bool = False) -> list[str]:
    """The meaningful rows. selects: LayerNorms are chosen per image; tunes: something is tuned; side_by_side: a feature
    gets longer with every task, so no discriminant and no head of stage one fits it.

    If one model serves all tasks, "true task given" means nothing: an earlier state of the model does not fit the
    present head. If nothing is tuned, stage one trains no head, so there is no single-stage row.
    """
    means_something = {"oracle": selects, "single_stage": tunes and not side_by_side, "c_ln_lda": not side_by_side}
    return [row for row in METHODS if means_something.get(row, True)]


def verdict(accuracies: Mapping[str, float]) -> str:
    """One sentence that compares C-LN with the best baseline of this run. accuracies: row -> fraction."""
    best = max((row for row in BASELINES if row in accuracies), key=lambda row: accuracies[row])
    return f"C-LN {_compared(accuracies['c_ln'] - accuracies[best])} the best baseline ({METHODS[best]})."


def worth_of_tuning(accuracies: Mapping[str, float]) -> str:
    """One sentence on what LayerNorm tuning adds when both sides have the same classifier; empty without that row."""
    if "c_ln_lda" not in accuracies:
        return ""
    gain = accuracies["c_ln_lda"] - accuracies["frozen_lda"]
    return f"With a linear discriminant as head, C-LN {_compared(gain)} the frozen backbone with that head."


def _compared(gain: float) -> str:
    points = f"{abs(100 * gain):.1f}"
    if points == "0.0":
        return "is as accurate as"
    return f"is {points} points {'above' if gain > 0 else 'below'}"
