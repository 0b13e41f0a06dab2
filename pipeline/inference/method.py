"""The chosen parts together, and the encoder that they make."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.inference.branching import BranchingEncoder
from pipeline.inference.choosing import ChoosingEncoder
from pipeline.inference.encoder import Encoder
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.judging import JudgingEncoder
from pipeline.inference.selecting import SelectingEncoder
from pipeline.inference.side_by_side import SideBySideEncoder
from pipeline.linear.head import Head
from pipeline.progress import Progress
from pipeline.selection.choose import Choice, Selection
from pipeline.selection.selector import Selector
from pipeline.selection.state import State, num_tasks
from pipeline.store.cumulative import scaled
from pipeline.tuning.bank import Bank
from pipeline.tuning.kind import Kind, Rows


class Passes(NamedTuple):
    """How often the backbone runs for one image at inference."""

    query: int  # frozen, alone
    tuned: int  # with a task's tuned parameters
    asked: int = 0  # frozen, within each tuned one: the model with prompts runs the frozen one first


class Method(NamedTuple):
    """How an image gets its feature."""

    kind: Kind
    selection: Selection
    selector: Selector
    average_scale: float = 1.0  # the mean over the tasks lies this many times as far from the start as it would

    @property
    def tunes(self) -> bool:
        """Whether anything is tuned."""
        return self.kind.keeps != "nothing"

    @property
    def chooses(self) -> bool:
        """Whether images of one step run under the parameters of different tasks, not under one model for all."""
        return self.kind.keeps == "each" and not (self.selection.one_model or self.selection.side_by_side)

    @property
    def asks_selector(self) -> bool:
        """Whether a selector chooses the task, by queries or by outputs."""
        return self.chooses and not self.kind.chosen and self.selection.needs_query

    @property
    def judges_outputs(self) -> bool:
        """Whether a selector chooses by the outputs of all tasks' models."""
        return self.asks_selector and self.selector.choose_by_outputs is not None

    @property
    def needs_query(self) -> bool:
        """Whether the frozen backbone runs alone: for the choice, or as a part of the feature."""
        asks_first = self.asks_selector and not self.judges_outputs and not self.kind.together
        return not self.tunes or asks_first or self.selection.with_frozen

    def passes(self, num_tasks: int) -> Passes:
        """Passes at inference after `num_tasks` tasks."""
        runs_each = self.judges_outputs or (self.tunes and self.selection.side_by_side)
        tuned = num_tasks if runs_each and not self.kind.together else int(self.tunes)
        return Passes(int(self.needs_query), tuned, int(self.kind.asks_frozen))

    def features(self, table: FeatureTable) -> Callable[[int, Tensor], Tensor]:
        """(step, images [B]) -> their features after that step, as the classifier gets them."""
        if self.tunes and self.selection.side_by_side:
            return lambda _, image: table.side_by_side(image)  # a head gives later tasks no weight
        return table.after

    def models(self, bank: Rows) -> Rows:
        """The tensors of each step, from those of the tasks."""
        return self.kind.means(bank) if self.selection.averages and self.kind.means else bank

    def scaled_models(self, bank: Rows, tuned: Backbone) -> Rows:
        """The same, with means scaled from the values that the places of the tuned model have before training."""
        models = self.models(bank)
        if self.average_scale == 1 or not self.selection.averages:
            return models
        return scaled(models, tuned.pretrained(models), self.average_scale)


def make_encoder(
    backbone: Backbone, bank: Bank, method: Method, state: State, *, heads: Sequence[Head], progress: Progress
) -> Encoder:
    """The encoder that computes features in training, evaluation and prediction.

    state: the selector's; heads: the auxiliary head of each task in the bank.
    """
    tuned = bank.place(backbone)
    tensors = method.scaled_models(bank.tensors, tuned)
    if method.kind.chosen:
        return ChoosingEncoder(tuned, tensors, method.kind, progress)
    choice = Choice(method.selection, method.selector, state)
    if method.kind.together:
        return BranchingEncoder(tuned, method.kind, tensors, choice, heads, progress)
    if method.tunes and method.selection.side_by_side:
        return SideBySideEncoder(tuned, tensors, num_tasks(state), progress)
    if method.judges_outputs:
        return JudgingEncoder(tuned, tensors, method.selector, heads, progress)
    return SelectingEncoder(backbone, tuned, method.kind, tensors, choice, progress)
