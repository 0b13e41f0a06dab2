"""Which rows of a head compete for a test image, by setting: the same in evaluation and prediction."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.evaluation.methods import BASELINES
from pipeline.evaluation.predictions import EvaluationSet
from pipeline.evaluation.settings import Setting
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.method import Method
from pipeline.linear.head import Head


def follows_task(method: Method) -> bool:
    """Whether the parameters of the task chosen or of the newest made a feature, so that its rows may decide alone."""
    stays = method.selection.averages or method.selection.is_fixed  # one model that no task has made, or only the first
    return method.chooses or (method.tunes and method.selection.one_model and not stays)


@dataclass(frozen=True)
class Competition:
    """The competing rows of every head and step of a run."""

    setting: Setting
    method: Method
    test: EvaluationSet
    table: FeatureTable
    classes_of: Tensor  # bool [T, C] the classes of each task

    def rows(self, method_row: str, head: Head, step: int, image: Tensor) -> Tensor | None:
        """Which rows count for images [B] after a step: [B, R]; None: all. method_row: a name in METHODS.

        With setting: domain, the domain of an image is the one chosen for it; if the newest model serves all, its own
        head decides. Without a choice to follow, rows of all domains count.
        """
        tasks: Tensor | None = None
        if self.setting.gives_task or method_row == "oracle":
            tasks = self.test.tasks[image]
        elif self.method.chooses:
            tasks = self.table.selected[step, image]
        elif follows_task(self.method) and method_row not in BASELINES:
            tasks = torch.full_like(image, step)
        return self.setting.competing(head, tasks, self.classes_of)
