"""A finished learner: the encoder, classifier and correction with which to predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.backbone.build import build_backbone
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.evaluation.correction import reconsidered_logits, retained
from pipeline.evaluation.predictions import class_tasks_of
from pipeline.evaluation.settings import SETTINGS, numbered, seen_classes
from pipeline.inference.competition import follows_task
from pipeline.inference.encoder import Encoded, Encoder
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_selected
from pipeline.inference.manifest import Settings
from pipeline.inference.method import Method, make_encoder
from pipeline.inference.rematch import ask_again
from pipeline.linear.head import Head, task_heads
from pipeline.linear.steps import step_heads
from pipeline.machine.device import compute_device
from pipeline.progress import Progress
from pipeline.selection.choose import SELECTIONS, Selection
from pipeline.selection.selector import find_selector
from pipeline.selection.state import State
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from pipeline.tasks import task_name
from pipeline.tuning.bank import Bank, load_bank


class Prediction(NamedTuple):
    """A learner's answer for some images, after the correction."""

    # [B] zero-based task whose tensors made the features; if the layers choose, the task that most of them chose
    tasks: Tensor
    logits: Tensor  # [B, C] over all classes, -inf for classes that a correction rules out; the highest is the answer


class Parts(NamedTuple):
    """What a learner is made of after its last task, besides its settings."""

    weights: Mapping[str, Tensor]  # of the frozen backbone
    config: Mapping[str, Any]  # of the backbone (pipeline.backbone.build)
    bank: Bank
    selection: Selection
    state: State  # of the selector
    auxiliary: Mapping[str, Tensor]  # the heads by which a selector judges outputs
    head: Head


class Outputs(NamedTuple):
    """What the passes of the backbone give for some images, and what the classifier makes of it."""

    tasks: Tensor  # [B] as in Prediction
    features: Tensor  # [B, D]
    logits: Tensor  # [B, C] before the correction


@dataclass(frozen=True)
class Learner:
    """All that inference needs."""

    settings: Settings
    method: Method
    encoder: Encoder
    head: Head  # of C classes
    class_tasks: Tensor  # [C] task in which each class came first
    classes_of: Tensor  # bool [T, C] the classes of each task
    progress: Progress

    def predict(self, images: Images, given: int | None = None) -> Prediction:
        """Predict the classes of B images: passes of the backbone, then the classifier, then the correction.

        given: their zero-based task, in a setting that gives it. Raises UserError if it is missing or not asked for.
        """
        outputs = self.outputs(images, given)
        return Prediction(outputs.tasks, self.corrected(outputs.logits))

    def outputs(self, images: Images, given: int | None = None) -> Outputs:
        """Features and logits of B images. given: as for `predict`."""
        check_given(self.settings, given)
        features, tasks = self.encoder.encode(images) if given is None else self._encode_given(images, given)
        if self.settings.correction == "rematch":
            encoder = self.encoder
            features, tasks, _ = ask_again(
                self.head,
                features,
                tasks,
                self.class_tasks,
                lambda image, task: encode_selected(encoder.tuned, images[image], task, encoder.bank, self.progress),
                rounds=self.settings.rematch_rounds,
            )
        is_known = given is not None or follows_task(self.method)
        competing = SETTINGS[self.settings.setting].competing(self.head, tasks if is_known else None, self.classes_of)
        return Outputs(tasks, features, self.head.scores(features, competing))

    def corrected(self, logits: Tensor) -> Tensor:
        """The logits [B, C] that decide."""
        return reconsidered_logits(logits, self.class_tasks, self.settings)

    def _encode_given(self, images: Images, task: int) -> Encoded:
        tasks = torch.full((len(images),), task)
        if not self.method.chooses:
            return self.encoder.encode(images)._replace(tasks=tasks)
        return Encoded(self.encoder.encode_under(images, tasks), tasks)


def load_learner(settings: Settings, tasks: Sequence[Sequence[str]]) -> Learner:
    """The learner after the last task, from its files. tasks: the classes of each.

    Raises UserError if the learner needs the true task of an image.
    """
    return make_learner(settings, tasks, load_parts(settings, tasks))


def load_parts(settings: Settings, tasks: Sequence[Sequence[str]]) -> Parts:
    """The parts of the learner after the last task, from the stages' files. Raises UserError as load_learner does."""
    selection = SELECTIONS[settings.selection]
    if not selection.is_real and not SETTINGS[settings.setting].gives_task:
        raise UserError(
            f"the learner was made with selection: {settings.selection}, which needs the true task of an image: "
            "set selection: query in params.yaml, then `dvc repro`"
        )
    last = task_name(settings.num_tasks - 1)
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    return Parts(
        weights,
        config,
        load_bank(artifacts.bank_file(last), settings.num_tasks),
        selection,
        artifacts.load_tensors(artifacts.selector_file(last)),
        artifacts.load_tensors(artifacts.auxiliary_heads_file(last)),
        final_head(settings, _class_tasks(tasks)),
    )


def make_learner(settings: Settings, tasks: Sequence[Sequence[str]], parts: Parts) -> Learner:
    """The learner made of these parts. tasks: the classes of each."""
    backbone = build_backbone(
        parts.weights,
        parts.config,
        image_size=settings.image_size,
        normalize=settings.normalize,
        device=compute_device(),
        features=settings.features,
    )
    progress = Progress("predict", images=0)
    method = Method(parts.bank.kind, parts.selection, find_selector(settings.selector), settings.average_scale)
    encoder = make_encoder(
        backbone, parts.bank, method, parts.state, heads=task_heads(parts.auxiliary), progress=progress
    )
    return Learner(settings, method, encoder, parts.head, _class_tasks(tasks), numbered(tasks)[1], progress)


def _class_tasks(tasks: Sequence[Sequence[str]]) -> Tensor:
    return class_tasks_of(seen_classes(numbered(tasks)[1]))


def check_given(settings: Settings, task: int | None) -> None:
    """Raises UserError unless the task of the images is given exactly in the setting that gives it, and exists."""
    if SETTINGS[settings.setting].gives_task:
        if task is None:
            raise UserError(
                "this learner was made with setting: task: say which task the images are of, as in `--task t2`"
            )
        if task >= settings.num_tasks:
            raise UserError(f"this learner has {settings.num_tasks} tasks: {task_name(task)} is not one of them")
    elif task is not None:
        raise UserError(
            f"this learner was made with setting: {settings.setting}, which gives no task: leave out --task"
        )


def final_head(settings: Settings, class_tasks: Tensor) -> Head:
    """The head over all classes [C]. With arc_retention, the evaluation's test images have moved it."""
    last = task_name(settings.num_tasks - 1)
    heads = artifacts.load_tensors(artifacts.heads_file(last))
    head = step_heads(part(heads, "tuned.head."), heads.get("tuned.projection"))[-1]
    if settings.correction != "arc_retention":
        return head
    table = FeatureTable.from_tensors(artifacts.load_tensors(artifacts.features_file(last)))
    step, image = settings.num_tasks - 1, torch.arange(table.rows.shape[1])
    kind = load_bank(artifacts.bank_file(last), settings.num_tasks).kind
    method = Method(kind, SELECTIONS[settings.selection], find_selector(settings.selector), settings.average_scale)
    return retained(head, method.features(table)(step, image), class_tasks, settings, step)
