"""`classifier_views`: which views stage two learns from, and their features under the model before."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import run_all
from pipeline.backbone.build import load_backbone
from pipeline.data.images import Images
from pipeline.store import artifacts
from pipeline.store.cumulative import row, running_means

PARAMS = Path("params.yaml")


def features(task: str, **changes: object) -> dict[str, Tensor]:
    """What the stage computes of a task with other parameters."""
    set_params(PARAMS, **changes)
    run_stage("features", task)
    return load_file(artifacts.features_file(task))


@pytest.mark.usefixtures("tiny_repository")
def test_without_crops_views_are_the_images_and_their_mirror_images_in_turn() -> None:
    set_params(PARAMS, selection="average", classifier="class_gaussians", flip=True)
    run_all(3)
    found = features("t3", classifier_views=2)
    backbone = load_backbone(image_size=16, normalize="pretrained", features="cls")
    images = Images.from_tensors(artifacts.load_tensors(artifacts.train_file("t3")))
    mirrored = Images.of_pixels(images.pixels(16).flip(2).contiguous())
    means = running_means(artifacts.load_tensors(artifacts.bank_file("t3")))
    number = torch.arange(len(images))
    for name, task in (("train_features", 2), ("previous_views", 1)):
        both = torch.stack([backbone.encode(of, row(means, task)) for of in (images, mirrored)])
        expected = torch.stack([both[number % 2, number], both[(number + 1) % 2, number]])
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(features("t3", classifier_views=1)["train_features"], found["train_features"][:1])
    assert "previous_views" not in features("t1")
    run_stage("stage_two", "t3")


@pytest.mark.usefixtures("tiny_repository")
def test_without_augmentation_or_where_nothing_moves_no_view_runs_again() -> None:
    set_params(PARAMS, selection="average", classifier="carried_gaussians")
    run_all(3)
    found = features("t3", classifier_views=2)
    assert torch.equal(found["train_features"], found["own_features"][None]), "the only view is the image"
    assert torch.equal(found["previous_views"], found["previous_features"][None])
    assert "previous_views" not in features("t1")
    assert "previous_views" not in features("t3", selection="first", classifier="lda", min_crop=0.5)


@pytest.mark.usefixtures("tiny_repository")
def test_both_models_see_the_same_crops() -> None:
    """A mean that never leaves the pretrained values gives a view the features that it had before."""
    set_params(PARAMS, selection="average", average_scale=0.0, classifier="carried_gaussians", flip=True, min_crop=0.3)
    run_all(3)
    found = features("t3", classifier_views=3)
    assert torch.equal(found["previous_views"], found["train_features"])
    assert not torch.allclose(found["train_features"][0], found["train_features"][1], atol=1e-2)
