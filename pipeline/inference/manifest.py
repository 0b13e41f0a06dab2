"""The record of a finished learner in artifacts/learner.json: its settings, classes and files.

params.yaml describes the next run; this record describes the last one. Code that uses a learner reads the settings here
and detects a file of another run among the learner's files.
"""

from pathlib import Path

from pydantic import ValidationError

from pipeline.backbone.vectors import FeaturesName
from pipeline.backbone.vit import Normalize
from pipeline.errors import UserError
from pipeline.evaluation.correction import CorrectionParams
from pipeline.evaluation.settings import SettingName
from pipeline.params import Count, ImageSize, Record, Scale
from pipeline.selection.choose import SelectionName
from pipeline.store import artifacts
from pipeline.tasks import task_name


class Settings(CorrectionParams):
    """The parameters that inference depends on."""

    setting: SettingName
    rematch_rounds: Count
    num_tasks: Count
    image_size: ImageSize
    normalize: Normalize
    features: FeaturesName
    selection: SelectionName
    selector: str
    average_scale: Scale
    tuning: str


class Manifest(Record):
    """A learner."""

    settings: Settings
    tasks: list[list[str]]  # the classes of each task
    domains: list[str]  # the domain of each task; empty if tasks are sets of classes
    array_size: list[int] | None  # height and width, if all images are small arrays of one size
    files: dict[str, str]  # path -> seal


def files_of(num_tasks: int) -> list[Path]:
    """The files of a learner of `num_tasks` tasks."""
    last = task_name(num_tasks - 1)
    of_a_task = (
        artifacts.selector_file,
        artifacts.bank_file,
        artifacts.auxiliary_heads_file,
        artifacts.features_file,
        artifacts.heads_file,
    )
    return [artifacts.BACKBONE, artifacts.REMATCH, *(file(last) for file in of_a_task)]


def write_manifest(settings: Settings) -> None:
    """Record the learner in the working folder."""
    tasks = list(artifacts.load_json(artifacts.TASKS).values())[: settings.num_tasks]
    domains = list(artifacts.load_json(artifacts.DOMAINS).values())[: settings.num_tasks]
    files = {path.as_posix(): artifacts.read_seal(path, is_checked=True) for path in files_of(settings.num_tasks)}
    size = artifacts.array_size(artifacts.TEST)
    manifest = Manifest(
        settings=settings, tasks=tasks, domains=domains, array_size=None if size is None else list(size), files=files
    )
    artifacts.save_json(artifacts.LEARNER, manifest.model_dump())


def read_manifest() -> Manifest:
    """The record of the learner here. Raises UserError if files are missing or come from different runs."""
    try:
        manifest = Manifest(**artifacts.load_json(artifacts.LEARNER))
    except ValidationError:
        raise UserError(f"{artifacts.LEARNER} is from another version of this project: `dvc repro` first") from None
    for name, written in manifest.files.items():
        if artifacts.read_seal(Path(name)) != written:
            raise UserError(
                f"{name} is from another run than {artifacts.LEARNER}: run `dvc repro` or `dvc checkout` first"
            )
    return manifest
