"""Every wrong params.yaml gives one line that names the key; every valid one is read as the user meant it."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from pipeline.errors import UserError
from pipeline.params import Record, read_params
from pipeline.tasks import Chain

PIPELINE = """
stages:
  one: {cmd: x, params: [lr, epochs, mode]}
  two:
    foreach: ${tasks}
    do: {cmd: x, params: [tasks, seed]}
"""


class Params(Record):
    """Like a stage's."""

    lr: float = Field(gt=0)
    epochs: int = Field(ge=1)
    mode: Literal["a", "b"]
    tasks: Chain


GOOD = {"lr": "0.1", "epochs": "3", "mode": "a", "tasks": "{t1: {prev: t0}}"}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(values: dict[str, str]) -> None:
    Path("params.yaml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(("text", "value"), [("1e-05", 1e-5), ("1e-5", 1e-5), ("1", 1.0), (".5", 0.5), ("2.e-1", 0.2)])
def test_numbers_as_dvc_writes_them(text: str, value: float) -> None:
    write(GOOD | {"lr": text})
    assert read_params(Params).lr == value


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "-0.1"}, "params.yaml: lr: input should be greater than 0, found -0.1"),
        ({"lr": "fast"}, "params.yaml: lr: input should be a valid number, found 'fast'"),
        ({"lr": "'0.1'"}, "params.yaml: lr: input should be a valid number, found '0.1'"),
        ({"lr": ".nan"}, "params.yaml: lr: input should be a finite number, found nan"),
        ({"lr": ".inf"}, "params.yaml: lr: input should be a finite number, found inf"),
        ({"lr": ""}, "params.yaml: lr: input should be a valid number, found None"),
        ({"epochs": "3.0"}, "params.yaml: epochs: input should be a valid integer, found 3.0"),
        ({"epochs": "true"}, "params.yaml: epochs: input should be a valid integer, found True"),
        ({"epochs": "0"}, "params.yaml: epochs: input should be greater than or equal to 1, found 0"),
        ({"mode": "c"}, "params.yaml: mode: input should be 'a' or 'b', found 'c'"),
        ({"tasks": "{1: {prev: 0}}"}, "params.yaml: tasks.1: input should be a valid string, found 1"),
        ({"epoch": "3"}, "params.yaml: unknown key 'epoch': did you mean epochs?"),
        ({"zzz": "3"}, "params.yaml: unknown key 'zzz': known are epochs, lr, mode, seed, tasks"),
        ({"lr": "[0.1"}, "params.yaml, line 2: not valid YAML: expected ',' or ']', but got ':'"),
        (
            {"lr": "!!python/object:os.system x"},
            "params.yaml, line 1: not valid YAML: could not determine a constructor",
        ),
    ],
)
def test_one_line_names_the_culprit(change: dict[str, str], message: str) -> None:
    write(GOOD | change)
    with pytest.raises(UserError) as raised:
        read_params(Params)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("repository")
def test_missing_keys_and_files() -> None:
    write({name: value for name, value in GOOD.items() if name != "epochs"})
    with pytest.raises(UserError, match=r"params\.yaml: epochs: field required$"):
        read_params(Params)
    Path("params.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"params\.yaml: expected `name: value` lines"):
        read_params(Params)
    Path("params.yaml").write_text("lr: 1\nlr: 2\n")
    with pytest.raises(UserError, match='line 2: not valid YAML: found duplicate key "lr"'):
        read_params(Params)
    Path("params.yaml").unlink()
    with pytest.raises(UserError, match=r"params\.yaml not found: run stages from the repository's root"):
        read_params(Params)


@pytest.mark.usefixtures("repository")
def test_a_stage_sees_only_what_it_declares() -> None:
    write(GOOD | {"seed": "3"})
    assert not hasattr(read_params(Params), "seed")
