"""Features under selected LayerNorms, each computed once.

The parameters of task k never change after task k. So the feature of an image under task k is the same at every later
step, and an image needs a new pass at step t only if the selector now names a task it has not been run under. With the
paper's selector that is when the new key beats all keys before: for keys in random order about 1 + 1/2 + ... + 1/T
passes an image for the whole accuracy matrix.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.backbone import Backbone
from pipeline.cumulative import row
from pipeline.errors import UserError
from pipeline.feature_table import FeatureTable, pair_code, pair_of
from pipeline.images import Images
from pipeline.progress import Progress
from pipeline.tasks import task_name


def encode_selected(
    backbone: Backbone, images: Images, tasks: Tensor, bank: Mapping[str, Tensor], progress: Progress
) -> Tensor:
    """CLS outputs [N, D] of N images, each under the LayerNorms of its task [N].

    Images of one task run together, so that nothing is gathered per sample. Raises UserError where LayerNorms have
    diverged in the very last step of stage one, which no loss shows.
    """
    features = torch.empty(len(images), backbone.model.num_features)
    for task in tasks.unique().tolist():
        rows = (tasks == task).nonzero().flatten()
        features[rows] = backbone.encode(images[rows], row(bank, task))
        if not bool(features[rows].isfinite().all()):
            raise UserError(f"features under the LayerNorms of {task_name(task)} are not finite: lower lr")
        progress.step(len(rows))
    return features


def extend_table(
    table: FeatureTable,
    backbone: Backbone,
    *,
    images: Images,
    selected: Tensor,
    bank: Mapping[str, Tensor],
    progress: Progress,
) -> FeatureTable:
    """The table after one more task, the last of `bank`.

    images: M, those of the table's tasks, then the new task's; selected: [M], the choice at this step.
    """
    task, count = len(table.selected), len(images)
    history = functional.pad(table.selected, (0, count - table.selected.shape[1]), value=-1)  # [t, M]
    image = torch.arange(count)
    is_new_pair = ~(history == selected).any(0)
    is_own = image >= table.selected.shape[1]
    needed = pair_code(image[is_new_pair], selected[is_new_pair])
    oracle = pair_code(image[is_own], torch.full_like(image[is_own], task))
    wanted = torch.cat([needed, oracle]).unique()
    missing = wanted[~torch.isin(wanted, pair_code(table.image, table.task))]
    new_image, new_task = pair_of(missing)
    features = encode_selected(backbone, images[new_image], new_task, bank, progress)
    return FeatureTable(
        image=torch.cat([table.image, new_image]),
        task=torch.cat([table.task, new_task]),
        features=torch.cat([table.features, features]),
        selected=torch.cat([history, selected[None]]),
        tuned_passes=torch.cat([table.tuned_passes, is_new_pair.sum()[None]]),
    )
