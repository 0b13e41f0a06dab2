"""Re-matching: if the predicted class belongs to another task than the selected one, run that task's model, too.

As in HRM-PET and MOS, the answer under the LayerNorms of the predicted class's task replaces the first answer. This
repeats until prediction and LayerNorms agree, a task would be asked twice, or the rounds are used up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import Encode, with_pairs
from pipeline.linear.head import Head


class Answer(NamedTuple):
    """The result of re-matching B images."""

    features: Tensor  # [B, D] under the LayerNorms used last
    tasks: Tensor  # [B] the tasks of these LayerNorms
    asked: int  # how often another task's model was run


def ask_again(
    head: Head, features: Tensor, tasks: Tensor, class_tasks: Tensor, encode: Encode, *, rounds: int
) -> Answer:
    """Re-match B images, from their features [B, D] under the selected tasks [B].

    class_tasks: [C] task of each class; encode: computes features of some images [b] under tasks [b].
    """
    features, tasks, questions = features.clone(), tasks.clone(), 0
    known = torch.zeros(len(tasks), int(class_tasks.max()) + 1, dtype=torch.bool)
    known.scatter_(1, tasks[:, None], value=True)
    for _ in range(rounds):
        wanted = class_tasks[head.logits(features).argmax(1)]
        again = (~known.gather(1, wanted[:, None]).flatten()).nonzero().flatten()
        if not len(again):
            break
        questions += len(again)
        known[again, wanted[again]] = True
        tasks[again] = wanted[again]
        features[again] = encode(again, wanted[again])
    return Answer(features, tasks, questions)


class Rematched(NamedTuple):
    """The predictions of re-matching, and its cost."""

    predictions: Tensor  # [T, M] class of every image after every step, -1 for future images
    asked: Tensor  # [T] how often another task's model was needed at each step
    passes: Tensor  # [T] how many of these passes no earlier step had run


def rematch(
    table: FeatureTable, heads: Sequence[Head], class_tasks: Tensor, encode: Encode, *, rounds: int
) -> Rematched:
    """Re-match every image at every step. heads: one per step; class_tasks: [C] task of each class."""
    predictions = torch.full_like(table.selected, -1)
    questions, passes = torch.zeros(2, len(heads), dtype=torch.int64)
    for step, head in enumerate(heads):
        image = (table.rows[step] >= 0).nonzero().flatten()
        before = len(table.image)

        def look_up(rows: Tensor, task: Tensor, image: Tensor = image) -> Tensor:
            nonlocal table
            table = with_pairs(table, image[rows], task, encode)
            return table.features[table.find(image[rows], task)]

        selected = table.selected[step, image]
        answer = ask_again(head, table.after(step, image), selected, class_tasks, look_up, rounds=rounds)
        predictions[step, image] = head.logits(answer.features).argmax(1)
        questions[step], passes[step] = answer.asked, len(table.image) - before
    return Rematched(predictions, questions, passes)
