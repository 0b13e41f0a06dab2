"""A finished learner: backbone, LayerNorms of every task, selector, classifier. Enough to predict."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.backbone import Backbone
from pipeline.encoder import EntropyEncoder, LayerwiseEncoder
from pipeline.errors import UserError
from pipeline.features import encode_selected
from pipeline.head import Head
from pipeline.images import Images
from pipeline.progress import Progress
from pipeline.selector import ENTROPY, Selection, select_tasks


class Prediction(NamedTuple):
    """What a learner says of some images."""

    tasks: Tensor  # [B] zero-based task whose LayerNorms were selected; layerwise: by most of them
    probabilities: Tensor  # [B, C] over all classes


@dataclass(frozen=True)
class Learner:
    """All that inference needs."""

    backbone: Backbone
    bank: dict[str, Tensor]  # LayerNorms, [T, D] each
    state: dict[str, Tensor]  # of the selector
    head: Head  # of C classes
    auxiliary_heads: list[Head]  # of each task
    selection: Selection
    selector: str

    def predict(self, images: Images) -> Prediction:
        """The passes that the selection takes, then the classifier, for B images."""
        progress = Progress("predict", len(images))
        if self.selection == "oracle":
            raise UserError("params.yaml: selection: oracle needs the task of an image: set query to predict")
        if self.selection == "layerwise":
            features, tasks = LayerwiseEncoder(self.backbone, self.bank, progress).encode(images)
        elif self.selection == "query" and self.selector == ENTROPY and self.bank:
            encoder = EntropyEncoder(self.backbone, self.bank, self.auxiliary_heads, progress)
            features, tasks = encoder.encode(images)
        else:
            unknown = torch.full((len(images),), -1)
            queries = self.backbone.encode(images, {})
            tasks = select_tasks(self.selection, self.selector, queries, unknown, self.state)
            features = encode_selected(self.backbone, images, tasks, self.bank, progress) if self.bank else queries
        return Prediction(tasks, self.head.logits(features).softmax(1))
