"""Features under selected LayerNorms, each computed once.

The parameters of task k never change after task k. So an image's feature under task k is the same at every later step.
At step t an image needs a new pass only if the selector names a task under which it has not been run. With the paper's
selector this happens when the new key beats all earlier keys. For keys in random order, the whole accuracy matrix takes
about 1 + 1/2 + ... + 1/T passes per image.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.errors import DivergedError
from pipeline.inference.feature_table import FeatureTable, pair_code, pair_of
from pipeline.machine.device import send
from pipeline.progress import Progress
from pipeline.store.cumulative import row
from pipeline.tasks import task_name


def encode_selected(
    backbone: Backbone, images: Images, tasks: Tensor, bank: Mapping[str, Tensor], progress: Progress
) -> Tensor:
    """Features [N, D] of N images, each under the LayerNorms of its task [N].

    Images of one task run together, so no parameters are gathered per image. Raises DivergedError if LayerNorms
    diverged in the very last step of stage one, which the loss does not show.
    """
    features = torch.empty(len(images), backbone.layout.size)
    for task in tasks.unique().tolist():
        rows = (tasks == task).nonzero().flatten()
        features[rows] = backbone.encode(images[rows], row(bank, task))
        if not bool(features[rows].isfinite().all()):
            raise DivergedError(f"features under what {task_name(task)} has tuned are not finite: lower lr")
        progress.step(len(rows))
    return features


Encode = Callable[[Tensor, Tensor], Tensor]  # images [B], tasks [B] -> features [B, D]


def with_pairs(table: FeatureTable, image: Tensor, task: Tensor, encode: Encode) -> FeatureTable:
    """The table with these images [B] under these tasks [B]. Pairs that it already holds are not run again."""
    wanted = pair_code(image, task).unique()
    missing = wanted[~torch.isin(wanted, pair_code(table.image, table.task))]
    new_image, new_task = pair_of(missing)
    return replace(
        table,
        image=torch.cat([table.image, new_image]),
        task=torch.cat([table.task, new_task]),
        features=torch.cat([table.features, encode(new_image, new_task)]),
    )


def extend_table(
    table: FeatureTable,
    selected: Tensor,
    encode: Encode,
    *,
    passes: int | None = None,
    is_one_model: bool = False,
) -> FeatureTable:
    """The table after one more task.

    selected: [M], the task chosen at this step, first for images of the table's tasks, then for those of the new one.
    passes: forward passes that this step took; None counts the (image, task) pairs that are new. is_one_model: whether
    the own task of an image has no model besides the one selected.
    """
    task, known, count = len(table.selected), table.selected.shape[1], len(selected)
    history = functional.pad(table.selected, (0, count - known), value=-1)  # [t, M]
    image, own = torch.arange(count), torch.arange(known, count)
    is_new_pair = ~(history == selected).any(0)
    own_task = selected[known:] if is_one_model else torch.full_like(own, task)
    longer = with_pairs(
        table, torch.cat([image[is_new_pair], own]), torch.cat([selected[is_new_pair], own_task]), encode
    )
    return with_step(
        longer,
        rows=longer.find(image, selected),
        own_rows=longer.find(own, own_task),
        selected=selected,
        passes=int(is_new_pair.sum()) if passes is None else passes,
    )


def replace_table(table: FeatureTable, features: Tensor, selected: Tensor, own_features: Tensor) -> FeatureTable:
    """The table after one more task that changes every feature, as in the variant that selects layer by layer.

    features: [M, D] of all images so far; selected: [M]; own_features: of the new task's images under its LayerNorms.
    """
    first, second = len(table.image), len(table.image) + len(features)
    image, own = torch.arange(len(features)), torch.arange(table.selected.shape[1], len(features))
    longer = replace(
        table,
        image=torch.cat([table.image, image, own]),
        task=torch.cat([table.task, torch.full_like(image, -1), torch.full_like(own, len(table.selected))]),
        features=torch.cat([table.features, features, own_features]),
    )
    own_rows = second + torch.arange(len(own))
    return with_step(longer, rows=first + image, own_rows=own_rows, selected=selected, passes=len(image))


def with_step(table: FeatureTable, *, rows: Tensor, own_rows: Tensor, selected: Tensor, passes: int) -> FeatureTable:
    """The table with the entries of one more step."""
    to_come = len(selected) - table.selected.shape[1]
    return replace(
        table,
        rows=torch.cat([functional.pad(table.rows, (0, to_come), value=-1), rows[None]]),
        own_rows=torch.cat([table.own_rows, own_rows]),
        selected=torch.cat([functional.pad(table.selected, (0, to_come), value=-1), selected[None]]),
        tuned_passes=torch.cat([table.tuned_passes, torch.tensor([passes])]),
    )


def encode_inputs(backbone: Backbone, inputs: Tensor, tasks: Tensor, bank: Mapping[str, Tensor]) -> Tensor:
    """Features [B, D] of a prepared batch, each image under the LayerNorms of its task [B]."""
    features = torch.empty(len(inputs), backbone.layout.size, device=backbone.device)
    for task in tasks.unique().tolist():
        rows = send((tasks == task).nonzero().flatten(), backbone.device)
        model, tensors = backbone.at_inference(row(bank, task))
        features[rows] = model.features(inputs[rows], tensors)
    return features.cpu()
