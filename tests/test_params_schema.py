"""params.schema.json, with which editors complete and check params.yaml."""

import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.bad_params import RIGHT
from harness.params_schema import SCHEMA, combined, text
from harness.root import ROOT


def test_the_file_is_what_the_records_say() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == text(), "`make schema` writes it again"


def test_params_yaml_names_its_schema() -> None:
    first = (ROOT / "params.yaml").read_text(encoding="utf-8").partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA.name}"


def test_a_schema_that_another_one_implies_is_left_out() -> None:
    text_only, named, number = {"type": "string"}, {"enum": ["a", "b"]}, {"type": "integer"}
    assert combined([text_only, named, text_only]) == named
    assert combined([number, number | {"minimum": 1}]) == {"type": "integer", "minimum": 1}
    assert combined([number | {"minimum": 1}, number | {"maximum": 2}]) == {
        "allOf": [number | {"minimum": 1}, number | {"maximum": 2}]
    }


@pytest.fixture(scope="module")
def validator() -> Any:  # noqa: ANN401
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def given() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    return content


def test_what_the_pipeline_accepts_is_no_mistake(validator: Any) -> None:  # noqa: ANN401
    assert not list(validator.iter_errors(given()))
    for name, values in RIGHT.items():
        for value in values:
            assert not list(validator.iter_errors(given() | {name: value})), (name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("lr", "0.01"), ("lr", 0), ("epochs", 0.5), ("tuning", "lorra"), ("dataset", "cifar"), ("correction", "ark")),
        *(("lora", {"rank": 4}), ("flip", 1), ("epoch", 5), ("seed", -1), ("task_classes", [[]]), ("none", {"a": 1})),
    ],
)
def test_mistakes_are_marked(validator: Any, name: str, value: object) -> None:  # noqa: ANN401
    assert list(validator.iter_errors(given() | {name: value}))
