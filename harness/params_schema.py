"""The JSON schema of params.yaml, with which editors complete names and mark mistakes: `make schema`.

It is built from the records of the stages and from the options of every part. A parameter that several stages read has
to satisfy the record of each.
"""

import importlib
import json
from collections import defaultdict
from typing import Any, TypeGuard

from pydantic import TypeAdapter

from harness.root import ROOT
from pipeline import parts
from pipeline.classification.classifier import find_classifier
from pipeline.data.datasets import DATASETS, IMAGE_FOLDER
from pipeline.evaluation.correction import Correction
from pipeline.params import PARAMS_FILE, PIPELINE_FILE, Record, known_keys, read_mapping
from pipeline.store import artifacts
from pipeline.tasks import MOST_TASKS
from pipeline.tuning.kind import find_kind

SCHEMA = ROOT / "params.schema.json"
Schema = dict[str, Any]


def params_schema() -> Schema:
    """The schema of the whole file. Names are those that dvc.yaml knows, so an unknown key is a mistake."""
    known = known_keys()
    found: dict[str, list[Schema]] = defaultdict(list)
    for record in stage_records():
        for name, schema in properties_of(record).items():
            found[name].append(schema)
    for name, values in named_values().items():
        found[name].append({"enum": values})
    blocks = {name: options_schema(name) for name in [*parts.names("tuning"), *parts.names("classifier")]}
    properties = {name: combined(found[name]) for name in sorted(found.keys() & known)} | blocks
    properties["tasks"]["maxProperties"] = MOST_TASKS
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Parameters of the pipeline ({PARAMS_FILE})",
        "type": "object",
        "additionalProperties": False,
        "required": sorted(known),
        "properties": properties,
    }


def stage_records() -> list[type[Record]]:
    """The record of each stage that reads parameters."""
    modules = [importlib.import_module(f"stages.{stage}") for stage in read_mapping(PIPELINE_FILE)["stages"]]
    return [module.Params for module in modules if hasattr(module, "Params")]


def named_values() -> dict[str, list[str]]:
    """Parameters whose values are the names of parts or of data sets, which records hold as plain text."""
    correction: Schema = TypeAdapter(Correction).json_schema()
    return {name: parts.names(name) for name in parts.PLACES} | {
        "dataset": sorted({*DATASETS, IMAGE_FOLDER}),
        "correction": correction["enum"],
    }


def options_schema(part: str) -> Schema:
    """The block of options of a way to tune or a classifier."""
    is_kind = part in parts.names("tuning")
    return block_schema((find_kind(part) if is_kind else find_classifier(part)).options)


def block_schema(options: type[Record]) -> Schema:
    """A block of options; those of a composed kind have a block per member."""
    members = {name: of for name, field in options.model_fields.items() if _is_record(of := field.annotation)}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(options.model_fields),
        "properties": properties_of(options) | {name: block_schema(member) for name, member in members.items()},
    }


def _is_record(annotation: Any) -> TypeGuard[type[Record]]:  # noqa: ANN401
    return isinstance(annotation, type) and issubclass(annotation, Record)


def properties_of(record: type[Record]) -> dict[str, Schema]:
    """The schema of each field, without the titles that pydantic derives from names."""
    fields: dict[str, Schema] = record.model_json_schema()["properties"] if record.model_fields else {}
    return {name: {key: value for key, value in field.items() if key != "title"} for name, field in fields.items()}


def combined(schemas: list[Schema]) -> Schema:
    """One schema that demands what all of them demand. Demands that another one repeats are left out."""
    different = [schema for index, schema in enumerate(schemas) if schema not in schemas[:index]]
    kept = [
        schema
        for schema in different
        if not any(schema is not other and _follows(schema, other) for other in different)
    ]
    return dict(kept[0]) if len(kept) == 1 else {"allOf": kept}


def _follows(schema: Schema, other: Schema) -> bool:
    """Whether whatever satisfies the other schema satisfies this one."""
    if schema.items() <= other.items():
        return True
    values = other.get("enum")
    return schema == {"type": "string"} and values is not None and all(isinstance(value, str) for value in values)


def text() -> str:
    """The schema as the file has it."""
    return json.dumps(params_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    artifacts.save_bytes(SCHEMA, text().encode())
    print(f"{SCHEMA.relative_to(ROOT)} is written")
