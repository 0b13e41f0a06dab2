"""A finished learner: backbone, LayerNorms and keys of every task, classifier. Enough to predict."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from pipeline.backbone import Backbone
from pipeline.features import encode_selected
from pipeline.head import Head
from pipeline.images import Images
from pipeline.progress import Progress
from pipeline.selector import select_tasks


class Prediction(NamedTuple):
    """What a learner says of some images."""

    tasks: Tensor  # [B] zero-based task whose LayerNorms were selected
    probabilities: Tensor  # [B, C] over all classes


@dataclass(frozen=True)
class Learner:
    """All that inference needs."""

    backbone: Backbone
    bank: dict[str, Tensor]  # LayerNorms, [T, D] each
    keys: Tensor  # [T, D]
    head: Head  # of C classes
    selector: str

    def predict(self, images: Images) -> Prediction:
        """Query pass, selection, tuned pass, classifier, for B images."""
        queries = self.backbone.encode(images, self.backbone.layernorms())
        tasks = select_tasks(self.selector, queries, self.keys)
        features = encode_selected(self.backbone, images, tasks, self.bank, Progress("predict", len(images)))
        return Prediction(tasks, self.head.logits(features).softmax(1))
