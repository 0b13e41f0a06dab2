"""Predicts the pictures of a command line, and counts those that cannot be read."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.data.image_files import BadImageError
from pipeline.errors import UserError, visible
from pipeline.inference.manifest import Settings
from pipeline.params import read_values
from pipeline.prediction.command import Form
from pipeline.prediction.learner import Answer, Learner
from pipeline.prediction.output import WRITERS
from pipeline.prediction.sources import pictures


class Predicting:
    """The answers of a learner for pictures, and the pictures without an answer."""

    def __init__(self, learner: Learner, named: Sequence[Path], top: int) -> None:
        """named: files, folders and patterns; top: classes per answer."""
        self.done, self.skipped, self.left_out = 0, 0, 0
        self._learner, self._named, self._top = learner, named, top
        self._first = ""  # of the reasons; not printed yet, as it may be all there is to say

    def __iter__(self) -> Iterator[tuple[Path, Answer]]:
        """Pictures with an answer. All others are named on stderr."""
        for path, answer in self._learner.stream(pictures(self._named, self._leave_out), top=self._top):
            assert isinstance(path, Path)
            if isinstance(answer, BadImageError):
                self._skip(f"{path} {answer}")
                continue
            self._name_first()
            self.done += 1
            yield path, answer
        if not self.done:
            raise UserError(self._first or f"{self._named[0]} holds no images that can be read: name others")

    def _leave_out(self, path: Path) -> None:
        del path
        self.left_out += 1

    def _skip(self, reason: str) -> None:
        if self.skipped:
            self._name_first()
            print(visible(f"skipped: {reason}"), file=sys.stderr)
        else:
            self._first = reason
        self.skipped += 1

    def _name_first(self) -> None:
        if self._first:
            print(visible(f"skipped: {self._first}"), file=sys.stderr)
            self._first = ""


def changes_since(settings: Settings) -> str:
    """One line on how params.yaml has changed since the learner was made; empty if it has not."""
    made = settings.model_dump()
    changed = {name: value for name, value in read_values(made).items() if value != made[name]}
    if not changed:
        return ""
    old = ", ".join(f"{name}: {made[name]}" for name in changed)
    new = ", ".join(f"{name}: {value}" for name, value in changed.items())
    return visible(f"this learner was made with {old}; params.yaml now says {new}: `dvc repro` makes a new learner")


def predict_pictures(named: Sequence[Path], folder: Path | None, *, task: str, top: int, form: Form) -> int:
    """Print the answers, and on stderr every picture without one; how many these are.

    Raises UserError if no picture can be read.
    """
    learner = Learner.load(folder, task=task)
    if folder is None and (note := changes_since(learner.finished.settings)):
        print(f"note: {note}", file=sys.stderr)
    if (setting := learner.finished.settings.setting) != "class":
        print(f"setting: {setting}", file=sys.stderr)
    if learner.finished.settings.correction == "arc_retention":
        print(
            "note: arc_retention is transductive: the evaluation's test images have moved the head; the images given "
            "here do not move it",
            file=sys.stderr,
        )
    answers = Predicting(learner, named, top)
    WRITERS[form](answers, learner.finished.threshold)
    if answers.left_out:
        print(f"note: left out {answers.left_out} files that are not images, or links to folders", file=sys.stderr)
    if answers.skipped:
        total = answers.done + answers.skipped
        print(f"{answers.skipped} of {total} pictures could not be read; they are named above", file=sys.stderr)
    return answers.skipped
