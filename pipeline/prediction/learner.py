"""The finished learner for your own code: `Learner.load(FOLDER).predict(images)`."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.backbone.vit import INFERENCE_BATCH
from pipeline.data.image_files import BadImageError, open_upright, square, upright
from pipeline.data.image_files import pixels as to_tensor
from pipeline.data.images import Images
from pipeline.data.packing import encode, packed
from pipeline.errors import UserError
from pipeline.inference import learner
from pipeline.inference.learner import check_given
from pipeline.inference.manifest import read_manifest
from pipeline.machine.cores import usable_cores
from pipeline.prediction import finished as finished_learner
from pipeline.prediction import saved
from pipeline.prediction.finished import Finished
from pipeline.prediction.novelty import scores_of
from pipeline.tasks import task_index, task_name

Picture = Path | str | bytes | Image.Image | np.ndarray[Any, Any]  # a file, its bytes, or pixels: uint8 [H, W, 3]


class Answer(NamedTuple):
    """What the learner says about one picture.

    Attributes:
        label: the most probable class
        probability: of that class, from 0 to 1
        margin: how much less probable the next class is
        task: the task that was selected (t1, t2, ...); None if one model serves all tasks
        novelty: how unlike all known classes the picture is (pipeline.prediction.novelty)
        is_none: whether the novelty is above the threshold, so the picture belongs to none of the classes
        best: the most probable classes, each with its probability
    """

    label: str
    probability: float
    margin: float
    task: str | None
    novelty: float
    is_none: bool
    best: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Learner:
    """A finished learner and the passes that it predicts with."""

    finished: Finished
    engine: learner.Learner
    given: int | None = None  # zero-based task of all pictures, in a setting that gives it

    @staticmethod
    def load(folder: Path | str | None = None, *, task: str = "") -> "Learner":
        """The learner in an exported folder or, without a folder, the one that the stages made in the working folder.

        task: that of all pictures (t1, t2, ...), for a learner of `setting: task`. Raises UserError if the folder is no
        learner, is damaged or comes from another version, and if a task is missing or is given without need.
        """
        finished = finished_learner.from_stages(read_manifest()) if folder is None else saved.load(Path(folder))
        given = task_index(task) if task else None
        check_given(finished.settings, given)
        return Learner(finished, finished.learner(), given)

    def predict(self, images: Iterable[Picture], *, top: int = 3) -> list[Answer]:
        """One answer per picture, with its `top` classes. Raises UserError for a picture that cannot be read."""
        answers = []
        for picture, answer in self.stream(images, top=top):
            if isinstance(answer, BadImageError):
                raise UserError(f"{picture if isinstance(picture, Path | str) else 'the picture'} {answer}")
            answers.append(answer)
        return answers

    def stream(self, images: Iterable[Picture], *, top: int = 3) -> Iterator[tuple[Picture, Answer | BadImageError]]:
        """Each picture with its answer, or with the reason why it cannot be read. Memory does not grow with them.

        Threads decode the next pictures while the model works on a batch.
        """
        pictures = iter(images)
        with ThreadPoolExecutor(usable_cores()) as pool:

            def ahead() -> list[tuple[Picture, Future[Tensor | BadImageError]]]:
                return [(one, pool.submit(self.decode, one)) for one in islice(pictures, INFERENCE_BATCH)]

            batch = ahead()
            while batch:
                following = ahead()
                pixels = [decoded.result() for _, decoded in batch]
                read = [one for one in pixels if isinstance(one, Tensor)]
                answers = iter(self.answer(torch.stack(read), top=top) if read else ())
                for (picture, _), one in zip(batch, pixels, strict=True):
                    yield picture, (next(answers) if isinstance(one, Tensor) else one)
                batch = following

    def decode(self, picture: Picture) -> Tensor | BadImageError:
        """The pixels that the learner sees, uint8 [H, W, 3], or why there are none.

        They are those of the same picture in a packed file, so that answers are those of the evaluation.
        """
        try:
            if isinstance(picture, np.ndarray):
                picture = Image.fromarray(picture)
            return self._array(picture) if self.finished.array_size else self._square(picture)
        except FileNotFoundError:
            return BadImageError("does not exist")
        except BadImageError as error:
            return error
        except OSError as error:
            return BadImageError(f"cannot be read: {error.strerror or error}")

    def _array(self, picture: Path | str | bytes | Image.Image) -> Tensor:
        """Where training saw small arrays of one size: the picture in this size. The model's input is scaled later."""
        assert self.finished.array_size
        if isinstance(picture, Image.Image):
            image = upright(picture, self.finished.ranges)
        else:
            file = BytesIO(picture) if isinstance(picture, bytes) else Path(picture)
            image = open_upright(file, ranges=self.finished.ranges)
        height, width = self.finished.array_size
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        return to_tensor(image)

    def _square(self, picture: Path | str | bytes | Image.Image) -> Tensor:
        """The central square of the picture, as it would be packed and read again."""
        if isinstance(picture, Image.Image):
            content = encode(upright(picture, self.finished.ranges))
        else:
            content = packed(picture if isinstance(picture, bytes) else Path(picture), self.finished.ranges)
        size = self.finished.settings.image_size
        return square(open_upright(BytesIO(content), at_least=size), size)

    def answer(self, pixels: Tensor, *, top: int = 3) -> list[Answer]:
        """One answer for each of uint8 [B, H, W, 3], as `decode` gives them."""
        tasks, features, logits = self.engine.outputs(Images.of_pixels(pixels), self.given)
        novelty = scores_of(self.finished.novelty, features, logits).tolist()
        shares, classes = self.engine.corrected(logits).softmax(1), self.finished.classes
        found = shares.topk(min(max(top, 2), len(classes)), dim=1)
        chooses, threshold = self.engine.method.chooses, self.finished.threshold
        answers = []
        for values, indices, task, score in zip(
            found.values.tolist(), found.indices.tolist(), tasks.tolist(), novelty, strict=True
        ):
            best = [(classes[index], value) for index, value in zip(indices, values, strict=True)]
            margin = values[0] - (values[1] if len(values) > 1 else 0.0)
            is_none = threshold is not None and score > threshold.value
            domain = f" ({self.finished.domains[task]})" if self.finished.domains else ""
            where = task_name(task) + domain if chooses else None
            answers.append(Answer(*best[0], margin, where, score, is_none, best[:top]))
        return answers
