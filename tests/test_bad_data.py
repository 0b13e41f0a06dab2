"""Bad data and weights: one line that names the culprit, or correct behaviour."""

from pathlib import Path

import pytest
import torch

from harness.bad_data import IMAGES, data_sets
from harness.bad_weights import VIT, WEIGHTS
from harness.stage_repository import refusal
from harness.tiny import random_images
from pipeline.backbone.pretrained import fetch_backbone
from pipeline.classification.classifier import TaskFeatures, Training, find_classifier
from pipeline.data.datasets import fetch_dataset
from pipeline.data.image_set import ImageSet
from pipeline.data.packing import are_arrays, stored, value_ranges
from pipeline.errors import UserError
from pipeline.parts import names
from pipeline.progress import Progress
from pipeline.selection.key import closed_form_key
from pipeline.selection.selector import TaskQueries, find_selector
from pipeline.store import artifacts

DATA = data_sets()
# Read, and perhaps refused by `split`, which knows how many tasks and images there must be.
READ = {name for name in DATA if name.startswith(("images in", "names", "the same image", "two images", "a class"))} | {
    "no image at all",
    "an empty class",
    "an image in all",
    "one image per class",
    "a single class",
    "classes for one task",
    "folders within folders",
    "a folder named as an image",
    "a file name that is not UTF-8",
    "png cut at 90%",  # all pixels are there
    "a pixel",
    "a line across",
    "a line down",
}
GOOD_WEIGHTS = {
    f"weights {of}"
    for of in (
        "that are good",
        "of halves",
        "of doubles",
        "of eight bits",
        "of absurd size",
        "with a wrong suffix",
        "that are tied",
    )
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, which the command line silences
@pytest.mark.parametrize("name", DATA)
def test_a_data_set_is_read_or_its_culprit_named(name: str, tmp_path: Path) -> None:
    changes = DATA[name](tmp_path)
    folder = tmp_path / str(changes.get("data_dir", IMAGES))

    def read() -> None:
        images = fetch_dataset("image_folder", data_dir=folder, scratch=tmp_path)
        arrays = are_arrays(images.train_images, images.test_images)
        ranges, _ = value_ranges(images.train_images, images.test_images)
        for split, labels in ((images.train_images, images.train_labels), (images.test_images, images.test_labels)):
            assert len(list(stored(split, arrays=arrays, ranges=ranges))) == len(labels)

    message = refusal(read)
    assert (message == "") == (name in READ), message
    assert not message or message.startswith(f"{tmp_path}/")


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_read_or_their_fault_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(str(WEIGHTS[name](tmp_path)["backbone_weights"]))
    message = refusal(lambda: artifacts.save_weights(Path("backbone"), fetch_backbone(VIT, file)[0], {}))
    assert (message == "") == (name in GOOD_WEIGHTS), message
    assert not message or str(file) in message
    assert "weights_only" not in message, "no advice to run the code of a file"
    assert not Path("pwned").exists()


LEAST = {  # images per class: features [N, D] of two tasks, labels [N]
    "one image": (torch.randn(1, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0])),
    "the same image twice": (torch.ones(2, 4), torch.tensor([0, 0])),
    "the same image in two classes": (torch.ones(4, 4), torch.tensor([0, 0, 1, 1])),
}


@pytest.mark.parametrize("least", LEAST)
@pytest.mark.parametrize("selector", names("selector"))
def test_a_selector_learns_from_the_least_of_data(selector: str, least: str) -> None:
    features, labels = LEAST[least]
    state: dict[str, torch.Tensor] = {}
    for shift in (0.0, 1.0):
        task = TaskQueries(features + shift, labels, closed_form_key(features + shift))
        state = find_selector(selector).learn(state, task, torch.Generator().manual_seed(0))
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    scores = find_selector(selector).scores(state, features)
    assert scores.shape == (len(features), 2)
    assert not bool(scores.isnan().any())  # what is as good as impossible is minus infinity


@pytest.mark.parametrize("least", LEAST)
@pytest.mark.parametrize("name", names("classifier"))
def test_a_classifier_learns_from_the_least_of_data(name: str, least: str, progress: Progress) -> None:
    features, labels = LEAST[least]
    state: dict[str, torch.Tensor] = {}
    for shift in (0.0, 1.0):
        training = Training(2, 0.01, 1, None, torch.Generator().manual_seed(0), progress)
        task = TaskFeatures((features + shift)[None], features + shift, features, labels)
        state, head = find_classifier(name).learn(state, task, training)
    assert bool(head.logits(features).isfinite().all())
    assert len(head.bias) == 2 * (int(labels.max()) + 1)


GOOD = {
    "classes": ["a", "b"],
    "groups": ["", ""],
    "train_images": random_images(4),
    "train_labels": torch.tensor([0, 0, 1, 1]),
    "test_images": random_images(2),
    "test_labels": torch.tensor([0, 1]),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["a", "a"]}, "two classes named 'a': rename one"),
        ({"train_labels": torch.tensor([0, 0, 1, 2])}, "2 classes, but a training label 2"),
        ({"test_labels": torch.tensor([0, -1])}, "2 classes, but a test label -1"),
        ({"test_labels": torch.tensor([0])}, "2 test images, but 1 labels for them"),
        ({"train_images": random_images(4)[..., :1]}, r"training images are torch.uint8 \[4, 16, 16, 1\]: expected"),
        ({"test_images": random_images(2).float()}, r"test images are torch.float32 \[2, 16, 16, 3\]: expected"),
    ],
)
def test_a_data_set_that_contradicts_itself_is_named(change: dict[str, object], message: str) -> None:
    ImageSet(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        ImageSet(**GOOD | change)  # type: ignore[arg-type]
