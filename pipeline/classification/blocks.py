"""One small classifier per block of the backbone, scores added up: memory grows with the blocks, not their square."""

from collections.abc import Callable, Mapping

from torch import Tensor

from pipeline.classification.classifier import TaskFeatures
from pipeline.linear.head import Head, joined
from pipeline.store.cumulative import part

LearnBlock = Callable[[Mapping[str, Tensor], TaskFeatures], tuple[dict[str, Tensor], Head]]


def learn_blocks(
    state: Mapping[str, Tensor], features: TaskFeatures, learn: LearnBlock, *, per_block: bool
) -> tuple[dict[str, Tensor], Head]:
    """State and head of one classifier for all blocks, or, per block, of one for each."""
    if not per_block:
        return learn(state, features)
    learned = [learn(part(state, f"{number}."), block) for number, block in enumerate(features.of_blocks())]
    after = {f"{number}.{name}": tensor for number, (new, _) in enumerate(learned) for name, tensor in new.items()}
    return after, joined([head for _, head in learned])
