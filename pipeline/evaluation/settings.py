"""The values of `setting`: what a task brings, and which classes compete for a test image.

Nothing before the evaluation depends on the difference between `class` and `task`, so a change between them reruns no
pass of the backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.linear.head import Head

SettingName = Literal["class", "domain", "task"]


@dataclass(frozen=True)
class Setting:
    """What is learned task by task, and what is known at test time."""

    sentence: str  # for the report
    among: str  # for the report: the classes that compete for an image
    by_domain: bool = False  # whether a task is a domain, with the same classes as the others
    gives_task: bool = False  # whether the task of a test image is given

    def competing(self, head: Head, tasks: Tensor | None, classes_of: Tensor) -> Tensor | None:
        """Which rows of a head count for B images: [B, R]; None: all.

        tasks: [B] the task of each image, given or chosen; None: unknown, or one model for all. classes_of: bool [T, C]
        the classes of each task. Rows that belong to a task count only for images of that task. So a domain's own rows
        classify the images that were assigned to it. Rows that belong to all tasks count for all images.
        """
        if tasks is None or not (self.by_domain or self.gives_task):
            return None
        if head.tasks is not None:
            return head.tasks[None] == tasks[:, None]
        if not self.gives_task:
            return None
        rows = torch.arange(len(head.bias)) if head.classes is None else head.classes
        return classes_of[tasks][:, rows]


SETTINGS: dict[SettingName, Setting] = {
    "class": Setting(
        "Setting: class-incremental. Each task brings classes, and every image is classified among all classes so far.",
        "all classes",
    ),
    "domain": Setting(
        """Setting: domain-incremental. Each task brings the same classes in another domain. An image's domain is not
        given at test time.""",
        "all classes",
        by_domain=True,
    ),
    "task": Setting(
        """Setting: task-incremental. The task of a test image is given: it runs under the parameters of its task and is
        classified among the classes of its task only. These numbers are far higher than class-incremental ones, and
        cannot be compared with them.""",
        "the classes of its task",
        gives_task=True,
    ),
}


def check_setting(
    name: SettingName,
    *,
    task_classes: Sequence[Sequence[str]],
    first_task_classes: int,
    correction: str,
    each_class_once: bool = False,
) -> None:
    """Raises UserError for parameters that contradict the setting."""
    setting = SETTINGS[name]
    if setting.by_domain and (task_classes or first_task_classes):
        wrong = "task_classes: []" if task_classes else "first_task_classes: 0"
        raise UserError(f"params.yaml: with setting: domain, every task is a domain and all its classes: set {wrong}")
    named = [c for classes in task_classes for c in classes]
    again = next((c for position, c in enumerate(named) if c in named[:position]), None)
    if each_class_once and (setting.by_domain or again is not None):
        where = "setting: domain brings all in every task" if again is None else f"task_classes repeats {again!r}"
        raise UserError(
            f"params.yaml: this classifier needs every class in one task only, but {where}: set classifier: "
            "carried_gaussians with anchor: false, or ncm"
        )
    if correction == "none":
        return
    if name != "class":
        raise UserError(
            f"params.yaml: correction: {correction} decides between the classes of different tasks, and setting: "
            f"{name} has no such choice: set correction: none"
        )
    if again is not None:
        raise UserError(
            f"params.yaml: correction: {correction} needs classes that belong to one task, and task_classes names "
            f"{again!r} in several: set correction: none"
        )


def numbered(tasks: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """All classes in the order in which they come first, and which of them each task has: bool [T, C]."""
    names = list(dict.fromkeys(name for classes in tasks for name in classes))
    return names, torch.tensor([[name in set(classes) for name in names] for classes in tasks])


def seen_classes(classes_of: Tensor) -> list[int]:
    """How many classes have been seen after each step: bool [T, C] -> T."""
    return [int(classes_of[: step + 1].any(0).sum()) for step in range(len(classes_of))]
