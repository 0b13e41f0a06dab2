"""Re-matching: where the predicted class belongs to another task than the selected one, ask that task's model too.

After HRM-PET and MOS: the answer under the predicted class's LayerNorms replaces the first, until prediction and
LayerNorms agree, a task would be asked twice, or the rounds are used up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import Encode, with_pairs
from pipeline.linear.head import Head


class Answer(NamedTuple):
    """Where the questions about B images ended."""

    features: Tensor  # [B, D] under the LayerNorms asked last
    tasks: Tensor  # [B] whose these are
    asked: int  # how often another task's model was asked


def ask_again(
    head: Head, features: Tensor, tasks: Tensor, class_tasks: Tensor, encode: Encode, *, rounds: int
) -> Answer:
    """Ask the predicted classes' tasks about B images, from their features [B, D] under the selected tasks [B].

    class_tasks: [C] task of each class; encode: of images [b] of these under tasks [b].
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
    """What re-matching says and costs."""

    predictions: Tensor  # [T, M] class of every image after every step, -1 for images to come
    asked: Tensor  # [T] how often another task's model was asked at each step
    passes: Tensor  # [T] passes of them that no earlier step had paid for


def rematch(
    table: FeatureTable, heads: Sequence[Head], class_tasks: Tensor, encode: Encode, *, rounds: int
) -> Rematched:
    """Re-match every image at every step. heads: of each step; class_tasks: [C] task of each class."""
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
