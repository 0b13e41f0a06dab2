"""A learner as a folder: safetensors and JSON, each file with its checksum. It is read without params.yaml or DVC.

`learner.json` holds the settings, classes and checksums; `backbone.safetensors` the frozen weights; `tuned.safetensors`
what the tasks have tuned, one row per task that images can run under; `head.safetensors` the classifier;
`selector.safetensors`, `auxiliary.safetensors` and `novelty.safetensors` hold what only some learners have.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, tensor

from pipeline.errors import UserError, is_refusal
from pipeline.inference.learner import Parts
from pipeline.inference.manifest import Settings
from pipeline.inference.method import Method
from pipeline.linear.head import Head
from pipeline.params import Record
from pipeline.parts import names
from pipeline.prediction.finished import Finished
from pipeline.prediction.novelty import Novelty, Threshold
from pipeline.selection.choose import SELECTIONS
from pipeline.selection.selector import find_selector
from pipeline.store import artifacts, seal
from pipeline.store.cumulative import newest_repeated
from pipeline.tuning.bank import Bank
from pipeline.tuning.kind import find_kind

FORMAT, VERSION = "continual LayerNorm learner", 1
RECORD = "learner.json"
_AGAIN = "fetch or export the whole folder again"
_ARGUMENTS = {"img_size", "global_pool"}  # those with which pipeline.backbone.checkpoint builds a timm model


class Saved(Record):
    """What learner.json holds."""

    format: str
    version: int
    settings: Settings
    tasks: list[list[str]]
    domains: list[str]  # of each task, if tasks are domains
    array_size: list[int] | None  # height and width, if training saw small arrays of one size
    ranges: dict[str, list[float]]
    tuning: str
    options: dict[str, Any]
    threshold: Threshold | None
    metrics: dict[str, float]
    provenance: dict[str, Any]
    files: dict[str, str]  # name -> checksum


def save(folder: Path, finished: Finished, *, metrics: Mapping[str, float], provenance: Mapping[str, Any]) -> Saved:
    """Write a learner into an existing folder. Raises UserError for a head that is not of the known form."""
    parts, method = finished.parts, _method(finished)
    if type(parts.head) is not Head:
        raise UserError(f"a head of the form {type(parts.head).__name__} cannot be exported: choose another classifier")
    models = finished.learner().encoder.bank  # means are made and scaled
    single = method.selection.one_model or not method.tunes
    tensors: dict[str, Mapping[str, Tensor]] = {
        "tuned": {name: rows[-1:] for name, rows in models.items()} if single else models,
        "head": {name: tensor for name, tensor in parts.head._asdict().items() if tensor is not None},
        "selector": parts.state if not method.judges_outputs and (method.asks_selector or not method.tunes) else {},
        "auxiliary": parts.auxiliary if method.judges_outputs else {},
        "novelty": finished.novelty._asdict() if finished.novelty else {},
    }
    artifacts.save_weights(folder / "backbone.safetensors", parts.weights, parts.config)
    for name, of_part in tensors.items():
        if of_part:
            artifacts.save_tensors(folder / f"{name}.safetensors", of_part)
    saved = Saved(
        format=FORMAT,
        version=VERSION,
        settings=finished.settings,
        tasks=[list(names) for names in finished.tasks],
        domains=list(finished.domains),
        array_size=None if finished.array_size is None else list(finished.array_size),
        ranges={kind: list(ends) for kind, ends in finished.ranges.items()},
        tuning=parts.bank.tuning,
        options=parts.bank.options.model_dump(),
        threshold=finished.threshold,
        metrics=dict(metrics),
        provenance=dict(provenance),
        files={file.name: seal.read_seal(file) for file in sorted(folder.glob("*.safetensors"))},
    )
    artifacts.save_json(folder / RECORD, saved.model_dump())
    return saved


def _method(finished: Finished) -> Method:
    parts = finished.parts
    return Method(parts.bank.kind, parts.selection, find_selector(finished.settings.selector))


def load(folder: Path) -> Finished:
    """The learner in a folder. Raises UserError if it is no learner, or is damaged, mixed or of another version."""
    saved = read_record(folder)
    tensors = {
        name.removesuffix(".safetensors"): _tensors(folder / name, sealed) for name, sealed in saved.files.items()
    }
    missing = {"backbone", "head"} - tensors.keys()
    if missing:
        raise UserError(f"{folder / RECORD} names no {min(missing)}.safetensors: {_AGAIN}")
    for parameter, name in (("tuning", saved.tuning), ("selector", saved.settings.selector)):
        if name not in names(parameter):
            raise UserError(
                f"{folder} needs {parameter} {name}, which this checkout does not have: update the checkout"
            )
    kind = find_kind(saved.tuning)
    selection, num_tasks = SELECTIONS[saved.settings.selection], saved.settings.num_tasks
    try:
        options = kind.options(**saved.options)
        head = Head(**tensors["head"])
        novelty = Novelty(**tensors["novelty"]) if "novelty" in tensors else None
    except (ValidationError, TypeError):
        raise UserError(f"{folder} is from another version of this project: export the learner again") from None
    rows: Mapping[str, Tensor] = tensors.get("tuned", {})
    if rows and len(next(iter(rows.values()))) == 1:
        rows = newest_repeated(rows, num_tasks)
    # Rows of an average are already the mean, so that nothing remains to be averaged.
    selection = dataclasses.replace(selection, averages=False)
    parts = Parts(
        tensors["backbone"],
        _config(folder / "backbone.safetensors"),
        Bank(saved.tuning, kind, options, rows),
        selection,
        tensors.get("selector", {"task": tensor([num_tasks - 1])}),
        tensors.get("auxiliary", {}),
        head,
    )
    ranges = {of: (ends[0], ends[1]) for of, ends in saved.ranges.items()}
    return Finished(
        saved.settings, saved.tasks, parts, ranges, novelty, saved.threshold, saved.domains, saved.array_size
    )


def read_record(folder: Path) -> Saved:
    """What learner.json says. Raises UserError as `load` does."""
    file = folder / RECORD
    if not file.is_file():
        others = {"config.json": "; it is a timm checkpoint, which timm loads", "model.onnx": "; it is an ONNX graph"}
        hint = next((text for name, text in others.items() if (folder / name).exists()), "")
        raise UserError(
            f"{folder} is no exported learner, since it has no {RECORD}{hint}: `python -m pipeline export FOLDER` "
            "writes one"
        )
    try:
        content = json.loads(file.read_bytes())
        _check_version(folder, content)
        seal.check_seal(file)
        del content[seal.KEY]
        saved = Saved(**content)
    except UserError:
        raise
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(f"{file}: {where} is not as this version writes it: export the learner again") from None
    except (ValueError, OSError) as error:
        if is_refusal(error):
            raise _refused(file, error) from None
        raise UserError(f"{file} cannot be read ({error}): {_AGAIN}") from None
    if unsafe := [name for name in saved.files if Path(name).name != name or not name.endswith(".safetensors")]:
        raise UserError(f"{file} names {unsafe[0]!r}, which is no file of a learner: {_AGAIN}")
    return saved


def _check_version(folder: Path, content: Any) -> None:  # noqa: ANN401  (whatever the JSON holds)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{folder / RECORD} describes no learner of this project: `python -m pipeline export FOLDER`")
    if content.get("version") != VERSION:
        raise UserError(
            f"{folder} has format version {content.get('version')!r}, and this checkout reads {VERSION}: update the "
            "older of the two"
        )


def _tensors(file: Path, sealed: str) -> dict[str, Tensor]:
    try:
        seal.check_seal(file)
        written = seal.read_seal(file)
        tensors = load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file} is missing: {_AGAIN}") from None
    except (SafetensorError, ValueError, OSError) as error:
        if is_refusal(error):
            raise _refused(file, error) from None
        raise UserError(f"{file} is damaged ({error}): {_AGAIN}") from None
    if written != sealed:
        raise UserError(f"{file} belongs to another learner than {RECORD}: {_AGAIN}")
    return tensors


def _refused(file: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {file}: {error.strerror or error}: grant access")


def _config(file: Path) -> dict[str, Any]:
    """The backbone's configuration. A stranger's folder must not make timm fetch or unpickle anything."""
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get("config", "")
    try:
        config = json.loads(text)
        plain = (
            isinstance(config, dict)
            and ("timm" in config) != ("architecture" in config)
            and ":" not in config.get("timm", "")
            and "/" not in config.get("timm", "")
            and config.get("arguments", {}).keys() <= _ARGUMENTS
            and all(isinstance(value, int | float | bool) for value in config.get("architecture", {}).values())
        )
    except (ValueError, AttributeError, TypeError):
        plain = False
    if not plain:
        raise UserError(f"{file} has no configuration of a backbone that this version knows: export the learner again")
    result: dict[str, Any] = config
    return result
