"""A finished learner: the encoder, classifier and correction with which to predict."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.backbone.build import build_backbone
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.evaluation.correction import reconsidered_logits, retained
from pipeline.evaluation.predictions import class_tasks_of
from pipeline.inference.encoder import Encoder
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_selected
from pipeline.inference.manifest import Settings
from pipeline.inference.method import Method, make_encoder
from pipeline.inference.rematch import ask_again
from pipeline.linear.head import Head, task_heads
from pipeline.linear.steps import step_heads
from pipeline.machine.device import compute_device
from pipeline.progress import Progress
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from pipeline.tasks import task_name
from pipeline.tuning.bank import load_bank


class Prediction(NamedTuple):
    """A learner's answer for some images, after the correction."""

    # [B] zero-based task whose tensors made the features; if the layers choose, the task that most of them chose
    tasks: Tensor
    logits: Tensor  # [B, C] over all classes, -inf for classes that a correction rules out; the highest is the answer


@dataclass(frozen=True)
class Learner:
    """All that inference needs."""

    settings: Settings
    encoder: Encoder
    head: Head  # of C classes
    class_tasks: Tensor  # [C] task of each class
    progress: Progress

    def predict(self, images: Images) -> Prediction:
        """Predict the classes of B images: passes of the backbone, then the classifier, then the correction."""
        features, tasks = self.encoder.encode(images)
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
        return Prediction(tasks, reconsidered_logits(self.head.logits(features), self.class_tasks, self.settings))


def load_learner(settings: Settings, class_counts: list[int]) -> Learner:
    """The learner after the last task, from its files. class_counts: classes per task.

    Raises UserError if the learner needs the true task of an image.
    """
    selection = SELECTIONS[settings.selection]
    if not selection.is_real:
        raise UserError(
            f"the learner was made with selection: {settings.selection}, which needs the true task of an image: "
            "set selection: query in params.yaml, then `dvc repro`"
        )
    last = task_name(settings.num_tasks - 1)
    weights, config = artifacts.load_weights(artifacts.BACKBONE)
    backbone = build_backbone(
        weights, config, image_size=settings.image_size, normalize=settings.normalize, device=compute_device()
    )
    bank = load_bank(artifacts.bank_file(last), settings.num_tasks)
    auxiliary = artifacts.load_tensors(artifacts.auxiliary_heads_file(last))
    state = artifacts.load_tensors(artifacts.selector_file(last))
    progress = Progress("predict", images=0)
    method = Method(bank.kind, selection, find_selector(settings.selector))
    encoder = make_encoder(backbone, bank, method, state, heads=task_heads(auxiliary), progress=progress)
    class_tasks = class_tasks_of(torch.tensor(class_counts).cumsum(0).tolist())
    return Learner(settings, encoder, final_head(settings, class_tasks), class_tasks, progress)


def final_head(settings: Settings, class_tasks: Tensor) -> Head:
    """The head over all classes [C]. With arc_retention, the evaluation's test images have moved it."""
    last = task_name(settings.num_tasks - 1)
    heads = artifacts.load_tensors(artifacts.heads_file(last))
    head = step_heads(part(heads, "tuned.head."), heads.get("tuned.projection"))[-1]
    features = artifacts.load_tensors(artifacts.features_file(last))
    table = FeatureTable.of_files(features, artifacts.load_tensors(artifacts.REMATCH))
    step, image = settings.num_tasks - 1, torch.arange(table.rows.shape[1])
    return retained(head, table.after(step, image), class_tasks, settings, step)
