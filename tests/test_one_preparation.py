"""`predict` on the files of the test images sees what the evaluation sees: of arrays, and of pictures of any size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.images import Images
from pipeline.data.packing import are_arrays, stored
from pipeline.prediction.learner import Learner
from pipeline.store import artifacts


def smooth(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


SIZES = {
    "arrays": ([(24, 24)] * 3, "png"),
    "oblong arrays": ([(24, 16)] * 3, "png"),
    "small": ([(40, 30), (64, 64), (100, 90)], "png"),
    "small JPEG": ([(200, 150), (250, 256), (90, 90)], "jpg"),
    "large JPEG": ([(400, 300), (700, 257), (300, 900)], "jpg"),
    "large PNG": ([(400, 300), (300, 300), (64, 400)], "png"),
}


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize("name", SIZES)
def test_predict_prepares_a_file_as_the_evaluation_does(name: str) -> None:
    sizes, suffix = SIZES[name]
    paths = [Path(f"{number}.{suffix}") for number in range(len(sizes))]
    for seed, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        smooth(*size, seed).save(path)
    arrays = are_arrays(paths)
    assert arrays == ("arrays" in name)
    artifacts.save_images(Path("packed.safetensors"), stored(paths, arrays=arrays), {"a": torch.zeros(3).long()})
    images = Images.from_tensors(load_file("packed.safetensors"))
    array_size = artifacts.array_size(Path("packed.safetensors"))
    learner = Learner.load()
    learner = replace(learner, finished=replace(learner.finished, array_size=array_size))
    backbone = learner.engine.encoder.tuned
    for index, path in enumerate(paths):
        expected = backbone.prepare(images[index : index + 1].pixels(16))
        for picture in (path, path.read_bytes()):
            found = learner.decode(picture)
            assert isinstance(found, Tensor)
            assert torch.equal(backbone.prepare(found[None]), expected)
    assert learner.predict(paths)[0].probability == pytest.approx(
        float(learner.engine.predict(images).logits.softmax(1).amax(1)[0]), abs=1e-6
    )


@pytest.mark.usefixtures("tiny_finished")
def test_a_picture_of_another_size_is_brought_to_that_of_the_arrays() -> None:
    learner = Learner.load()
    learner = replace(learner, finished=replace(learner.finished, array_size=(12, 20)))
    found = learner.decode(smooth(300, 100, 0))
    assert isinstance(found, Tensor)
    assert found.shape == (12, 20, 3)
    assert learner.predict([smooth(300, 100, 0)])
