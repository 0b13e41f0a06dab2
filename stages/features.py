"""Compute features under the selected LayerNorms: of a task's training images, and of test images selected anew.

Test images of earlier tasks are read, too, without a dependency on them: DVC would then run every task again when a
task arrives. A file of features names the images that it is of, so a change of any of them reaches all later tasks.
"""

import hashlib
from dataclasses import asdict, replace

from pydantic import Field

from pipeline.backbone.build import load_backbone
from pipeline.backbone.vectors import FeaturesName
from pipeline.backbone.vit import Normalize
from pipeline.data import test_images
from pipeline.data.images import Images
from pipeline.errors import DivergedError, UserError
from pipeline.inference.encoder import ViewFeatures
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.method import Method, make_encoder
from pipeline.inference.views import encode_views
from pipeline.linear.head import task_heads
from pipeline.machine.devices import on_all_devices
from pipeline.params import ImageSize, Record, Scale, Seed, read_params
from pipeline.progress import Progress
from pipeline.runtime.command import Task, run
from pipeline.seeds import generator
from pipeline.selection.choose import SELECTIONS, SelectionName
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts
from pipeline.store.cumulative import append_rows
from pipeline.tasks import task_index, task_name
from pipeline.tuning.bank import load_bank


class Params(Record):
    """How LayerNorms are selected, and which views of a training image stage two will see."""

    seed: Seed
    image_size: ImageSize
    normalize: Normalize
    features: FeaturesName
    selection: SelectionName
    selector: str
    average_scale: Scale
    classifier_views: int = Field(ge=0, le=1000)
    min_crop: float = Field(gt=0, le=1)
    flip: bool


def main(task: Task) -> None:
    """Compute the features of TASK (t1, t2, ...)."""
    params = read_params(Params)
    index = task_index(task)
    backbone = load_backbone(image_size=params.image_size, normalize=params.normalize, features=params.features)
    train = Images.from_tensors(artifacts.load_tensors(artifacts.train_file(task)))
    train_queries = artifacts.load_tensors(artifacts.train_queries_file(task))["queries"]
    test_images.load_images(task, index)  # those of this task are what DVC says
    test = artifacts.load_tensors(artifacts.TEST)
    seen = test["tasks"] <= index
    before = artifacts.load_tensors(artifacts.features_file(task_name(index - 1)))
    own_queries = artifacts.load_tensors(artifacts.test_queries_file(task))
    test_queries = append_rows({"queries": before["test_queries"]} if before else {}, own_queries)["queries"]
    random = generator(params.seed, "features", index)

    state = artifacts.load_tensors(artifacts.selector_file(task))
    bank = load_bank(artifacts.bank_file(task), index + 1)
    method = Method(bank.kind, SELECTIONS[params.selection], find_selector(params.selector), params.average_scale)
    if not method.selection.is_real and bool((test["tasks"] < 0).any()):
        raise UserError(
            f"params.yaml: selection: {params.selection} needs the task of each test image, and those of this data set "
            "are of domains that no task trains: choose another selection"
        )

    with Progress(f"features, {task}", images=0) as progress:
        encoder = make_encoder(
            backbone,
            bank,
            method,
            state,
            heads=task_heads(artifacts.load_tensors(artifacts.auxiliary_heads_file(task))),
            progress=progress,
        )
        of_train = encoder.train_features(train, train_queries)
        features = {
            "train_features": of_train.selected[None],
            "own_features": of_train.own,
            "test_queries": test_queries,
        }
        if params.classifier_views:
            crops, flip, count = params.min_crop, params.flip, params.classifier_views
            unchanged = ViewFeatures(of_train.selected, of_train.previous if index else None)
            views = encode_views(backbone, encoder, train, unchanged, count, random, min_crop=crops, flip=flip)
            features["train_features"] = views.selected
            if views.previous is not None:
                features["previous_views"] = views.previous
        if of_train.previous is not None:
            features["previous_features"] = of_train.previous
        width = of_train.own.shape[1]
        table = FeatureTable.from_tensors(before) if before else FeatureTable.empty(width)
        table = encoder.extend(table, Images.from_tensors(test)[seen], test_queries, test["tasks"][seen])
        progress.finish()
    # The frozen output beside the tuned one makes twice as many vectors, each block's in both.
    layout = replace(backbone.layout, blocks=backbone.layout.blocks * (width // backbone.layout.size))
    if not all(bool(tensor.isfinite().all()) for tensor in (*features.values(), table.features)):
        raise DivergedError(f"features under what {task} has tuned are not finite: lower lr")
    described = {"flops": str(encoder.flops())} | layout.metadata() | facts(task)  # flops of a tuned pass
    artifacts.save_tensors(artifacts.features_file(task), features | asdict(table), described)


def facts(task: str) -> dict[str, str]:
    """What later stages want to know: of the frozen backbone, and which test images all the features are of."""
    frozen = artifacts.load_metadata(artifacts.test_queries_file(task))
    before = artifacts.load_metadata(artifacts.features_file(task_name(task_index(task) - 1)))
    images = hashlib.sha256((before.get("test_images", "") + test_images.read_digest(task)).encode()).hexdigest()
    return {"frozen_flops": frozen["flops"], "parameters": frozen["parameters"], "test_images": images}


if __name__ == "__main__":
    run(on_all_devices(main))
