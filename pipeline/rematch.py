"""Re-matching: where the predicted class belongs to another task than the selected one, ask that task's model too.

After HRM-PET and MOS: the answer under the predicted class's LayerNorms replaces the first, until prediction and
LayerNorms agree, a task would be asked twice, or the rounds are used up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.feature_table import FeatureTable
from pipeline.features import Encode, with_pairs
from pipeline.head import Head


class Rematched(NamedTuple):
    """What re-matching says and costs."""

    predictions: Tensor  # [T, M] class of every image after every step, -1 for images to come
    asked: Tensor  # [T] how often another task's model was asked at each step
    passes: Tensor  # [T] passes of them that no earlier step had paid for


def rematch(
    table: FeatureTable, heads: Sequence[Head], class_tasks: Tensor, encode: Encode, *, rounds: int
) -> Rematched:
    """Re-match every image at every step. heads: of each step; class_tasks: [C] task of each class."""
    predictions = torch.full_like(table.selected, -1)
    num_tasks = int(class_tasks.max()) + 1
    questions, passes = torch.zeros(2, len(heads), dtype=torch.int64)
    for step, head in enumerate(heads):
        image = (table.rows[step] >= 0).nonzero().flatten()
        task = table.selected[step, image].clone()
        predicted = head.logits(table.after(step, image)).argmax(1)
        asked = torch.zeros(len(image), num_tasks, dtype=torch.bool).scatter_(1, task[:, None], value=True)
        for _ in range(rounds):
            wanted = class_tasks[predicted]
            again = (~asked.gather(1, wanted[:, None]).flatten()).nonzero().flatten()
            if not len(again):
                break
            before = len(table.image)
            table = with_pairs(table, image[again], wanted[again], encode)
            passes[step] += len(table.image) - before
            questions[step] += len(again)
            asked[again, wanted[again]] = True
            rows = table.find(image[again], wanted[again])
            predicted[again] = head.logits(table.features[rows]).argmax(1)
        predictions[step, image] = predicted
    return Rematched(predictions, questions, passes)
