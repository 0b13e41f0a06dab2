"""What a finished learner is made of: its settings, its classes and its files, as artifacts/learner.json records them.

params.yaml says what the next run will make; this says what the last one has made. So whoever uses a learner reads its
settings here, and a file of another run among its files is noticed.
"""

from pathlib import Path

from pydantic import ValidationError

from pipeline.backbone.build import Normalize
from pipeline.errors import UserError
from pipeline.evaluation.correction import CorrectionParams
from pipeline.params import Count, ImageSize, Record
from pipeline.selection.choose import SelectionName
from pipeline.store import artifacts
from pipeline.tasks import task_name


class Settings(CorrectionParams):
    """What inference depends on beside the files."""

    rematch_rounds: Count
    num_tasks: Count
    image_size: ImageSize
    normalize: Normalize
    selection: SelectionName
    selector: str
    tuning: str


class Manifest(Record):
    """A learner."""

    settings: Settings
    tasks: list[list[str]]  # the classes of each task
    files: dict[str, str]  # seal of each file


def files_of(num_tasks: int) -> list[Path]:
    """The files that make up a learner of so many tasks."""
    last = task_name(num_tasks - 1)
    of_a_task = (
        artifacts.selector_file,
        artifacts.bank_file,
        artifacts.auxiliary_heads_file,
        artifacts.features_file,
        artifacts.heads_file,
    )
    return [artifacts.BACKBONE, *(file(last) for file in of_a_task)]


def write_manifest(settings: Settings) -> None:
    """Record the learner whose files lie in the working folder."""
    tasks = list(artifacts.load_json(artifacts.TASKS).values())[: settings.num_tasks]
    files = {path.as_posix(): artifacts.read_seal(path, is_checked=True) for path in files_of(settings.num_tasks)}
    artifacts.save_json(artifacts.LEARNER, Manifest(settings=settings, tasks=tasks, files=files).model_dump())


def read_manifest() -> Manifest:
    """The learner of the working folder. Raises UserError where files are missing, or are not all of one run."""
    try:
        manifest = Manifest(**artifacts.load_json(artifacts.LEARNER))
    except ValidationError:
        raise UserError(f"{artifacts.LEARNER} is of another version of this project: `dvc repro` first") from None
    for name, written in manifest.files.items():
        if artifacts.read_seal(Path(name)) != written:
            raise UserError(f"{name} is of another run than {artifacts.LEARNER}: `dvc repro` first, or `dvc checkout`")
    return manifest
