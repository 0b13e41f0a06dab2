"""Which choices in params.yaml contradict each other: one rule a line, with the words that refuse it.

A rule is checked before anything runs. Names in braces are values of params.yaml; the words end with the remedy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.backbone.vectors import FeaturesName
from pipeline.classification.classifier import Classifier
from pipeline.errors import UserError
from pipeline.evaluation.settings import SettingName
from pipeline.inference.method import Method
from pipeline.params import Count, Record, Scale
from pipeline.selection.choose import SELECTIONS, Selection, SelectionName
from pipeline.tuning.kind import Kind
from pipeline.tuning.loop import LEAST_TO_DROP


class Choices(Record):
    """The choices that must agree with each other."""

    setting: SettingName
    classes_per_task: Count
    first_task_classes: int
    task_classes: list[list[str]]
    features: FeaturesName
    tuning: str
    tuning_init: Literal["previous", "pretrained"]
    tuned_tasks: Literal["all", "first"]
    epochs: Count
    min_crop: Annotated[float, Field(gt=0, le=1)]
    lr_schedule: Literal["constant", "cosine", "drop"]
    selection: SelectionName
    selector: str
    average_scale: Scale
    training: Literal["two_stage", "single_stage"]
    classifier: str
    classifier_init: Literal["fresh", "auxiliary"]
    classifier_views: Annotated[int, Field(ge=0, le=1000)]
    order: Literal["sequential", "joint"]
    correction: str


@dataclass(frozen=True)
class Case:
    """The choices, and the parts that they name."""

    chosen: Choices
    method: Method
    classifier: Classifier

    @property
    def kind(self) -> Kind:
        """What a task tunes."""
        return self.method.kind

    @property
    def selection(self) -> Selection:
        """How an image gets a task."""
        return self.method.selection

    @property
    def is_chain(self) -> bool:
        """Whether each task starts from the one before."""
        return self.chosen.tuning_init == "previous"

    @property
    def only_first(self) -> bool:
        """Whether the first task alone is tuned."""
        return self.chosen.tuned_tasks == "first"

    @property
    def is_single_stage(self) -> bool:
        """Whether the head is that of stage one."""
        return self.chosen.training == "single_stage"

    @property
    def starts(self) -> bool:
        """Whether stage two is to start from the head of stage one."""
        return self.chosen.classifier_init == "auxiliary"

    @property
    def has_one_model(self) -> bool:
        """Whether all images run under one model that every task moves."""
        follows = self.selection.one_model and not self.selection.is_fixed
        return self.kind.keeps == "each" and not self.kind.chosen and follows

    @property
    def tells_nothing(self) -> bool:
        """Whether no two tasks have heads of several classes, so that the certainty of heads compares nothing."""
        sizes = [len(classes) for classes in self.chosen.task_classes] or 2 * [self.chosen.classes_per_task]
        return self.chosen.setting != "domain" and len(sizes) > 1 and sum(size > 1 for size in sizes) < 2


Rule = tuple[Callable[[Case], bool], str]

RULES: tuple[Rule, ...] = (
    # What is tuned, and which task's parameters an image gets.
    (
        lambda c: c.kind.keeps == "newest" and c.selection is not SELECTIONS["latest"] and not c.selection.is_fixed,
        "tuning: {tuning} keeps no model of earlier tasks: set selection: latest",
    ),
    (
        lambda c: c.kind.means is None and c.selection.averages,
        "the mean of what tuning: {tuning} tunes means nothing: set selection: query",
    ),
    (
        lambda c: c.method.average_scale != 1 and c.selection.averages and not c.kind.scalable,
        "the mean of what tuning: {tuning} tunes cannot be scaled, since it has no start: set average_scale: 1.0",
    ),
    (
        lambda c: c.kind.means_of_chain and c.selection.averages and not c.is_chain,
        "a mean of what tuning: {tuning} tunes needs tasks that start from one another: set tuning_init: previous",
    ),
    (
        lambda c: c.kind.asks_frozen and not c.is_chain,
        "tuning: {tuning} continues earlier prompts: set tuning_init: previous",
    ),
    (
        lambda c: c.chosen.order == "joint" and c.selection is not SELECTIONS["latest"],
        "order: joint leaves one model for all tasks: set selection: latest",
    ),
    (
        lambda c: c.kind.chosen is not None and c.selection is not SELECTIONS["query"],
        "tuning: {tuning} selects by itself: set selection: query",
    ),
    (
        lambda c: c.kind.together is not None and (c.selection.is_fixed or c.selection.side_by_side),
        "tuning: {tuning} keeps a branch for every task, and each image gets the feature of one: set selection: query, "
        "oracle or latest",
    ),
    (
        lambda c: c.chosen.correction == "rematch" and not c.method.asks_selector,
        "correction: rematch needs tensors of each task to choose from: set selection: query and tuning: layernorm",
    ),
    (
        lambda c: c.classifier.needs_one_model and not c.has_one_model,
        "this classifier needs one model for all tasks: set selection: average and tuning: layernorm",
    ),
    (
        lambda c: c.only_first and not c.selection.is_fixed,
        "tuned_tasks: first leaves one model for all tasks: set selection: first",
    ),
    (
        lambda c: c.selection.is_fixed and not c.only_first,
        "this selection uses only what the first task tunes: set tuned_tasks: first",
    ),
    (
        lambda c: c.selection.side_by_side and (not c.classifier.side_by_side or c.is_single_stage),
        "selection: all makes features longer with every task: set classifier: ease and training: two_stage",
    ),
    # What would fail, or mean nothing.
    (
        lambda c: c.chosen.features != "cls" and (c.kind.asks_frozen or c.kind.together is not None),
        "tuning: {tuning} describes an image by the model's own output alone: set features: cls",
    ),
    (
        lambda c: c.method.judges_outputs and c.tells_nothing,
        "selector: {selector} compares how certain the heads of tasks are, and the head of a single class always is: "
        "set selector: key, or several classes per task",
    ),
    # What would be ignored.
    (
        lambda c: c.method.tunes and c.chosen.lr_schedule == "drop" and c.chosen.epochs < LEAST_TO_DROP,
        f"lr_schedule: drop lowers lr in the last tenth of the epochs, and {{epochs}} have none: set epochs: "
        f"{LEAST_TO_DROP} or more, or lr_schedule: constant",
    ),
    (
        lambda c: c.starts and (not c.method.tunes or c.only_first),
        "classifier_init: auxiliary needs a head of stage one for each task, and with tuning: {tuning} and "
        "tuned_tasks: {tuned_tasks} there is none: set classifier_init: fresh",
    ),
    (
        lambda c: c.starts and c.is_single_stage,
        "training: single_stage takes the head of stage one as it is: set classifier_init: fresh",
    ),
    (
        lambda c: c.starts and c.classifier.start == "ignored",
        "classifier: {classifier} starts from no rows: set classifier_init: fresh",
    ),
    (
        lambda c: c.chosen.classifier_views > 0 and c.is_single_stage,
        "training: single_stage takes the head of stage one as it is, without views: set classifier_views: 0",
    ),
    (
        lambda c: c.chosen.classifier_views > 0 and not c.classifier.sees_views,
        "classifier: {classifier} learns from the images alone, not from views: set classifier_views: 0",
    ),
    (
        lambda c: c.chosen.classifier_views > 0 and c.starts and c.classifier.start == "kept",
        "classifier: {classifier} trains no rows on views if it gets those of stage one: set classifier_views: 0",
    ),
    (
        lambda c: c.chosen.classifier_views > 2 and c.chosen.min_crop == 1,
        "without crops (min_crop: 1) an image has at most two views: set classifier_views: 2, or a smaller min_crop",
    ),
)


def refuse_contradictions(case: Case) -> None:
    """Raises UserError, one line, for the first rule that the choices break."""
    for breaks, words in RULES:
        if breaks(case):
            raise UserError(f"params.yaml: {words.format(**case.chosen.model_dump())}")
