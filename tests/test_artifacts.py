"""Files appear whole or not at all; an error names a missing or damaged file and the remedy."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import UserError
from pipeline.store import artifacts

TENSORS = {"b": torch.arange(6).view(2, 3), "a": torch.tensor([0.5])}


def test_round_trip_and_identical_bytes(tmp_path: Path) -> None:
    metadata = {str(number): "" for number in range(9)}
    for folder, tensors in (("deep", TENSORS), ("other", dict(reversed(TENSORS.items())))):
        artifacts.save_tensors(tmp_path / folder / "x", tensors, metadata)
    assert (tmp_path / "deep/x").read_bytes() == (tmp_path / "other/x").read_bytes()
    loaded = artifacts.load_tensors(tmp_path / "deep/x")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    artifacts.save_tensors(tmp_path / "empty", {})
    assert artifacts.load_tensors(tmp_path / "empty") == {}


def test_weights_carry_their_configuration(tmp_path: Path) -> None:
    artifacts.save_weights(tmp_path / "w", TENSORS, {"mean": [0.5]})
    save_file(TENSORS, tmp_path / "unsealed", {"config": '{"mean": [0.5]}'})
    for name, is_checked in (("w", False), ("unsealed", True)):
        weights, config = artifacts.load_weights(tmp_path / name, is_checked=is_checked)
        assert weights.keys() == TENSORS.keys()
        assert config == {"mean": [0.5]}
    with pytest.raises(UserError, match=r"unsealed is damaged .it has no checksum"):
        artifacts.load_weights(tmp_path / "unsealed")
    artifacts.save_tensors(tmp_path / "plain", TENSORS)
    with pytest.raises(UserError, match=r"plain is damaged .no configuration"):
        artifacts.load_weights(tmp_path / "plain")


def test_tables(tmp_path: Path) -> None:
    artifacts.save_json(tmp_path / "t.json", {"name": "ნ", "values": [1, 0.5]})
    assert artifacts.load_json(tmp_path / "t.json") == {"name": "ნ", "values": [1, 0.5]}
    artifacts.save_plain_json(tmp_path / "plain.json", [1])
    assert (tmp_path / "plain.json").read_text() == "[\n  1\n]\n"
    with pytest.raises(UserError, match=r"plain.json is damaged .it has no checksum"):
        artifacts.load_json(tmp_path / "plain.json")
    artifacts.save_csv(tmp_path / "t.csv", ("a", "b"), [(1, "x,y"), (2, "z")])
    assert (tmp_path / "t.csv").read_text() == 'a,b\n1,"x,y"\n2,z\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.save_json(tmp_path / "nan.json", {"loss": float("nan")})


@pytest.mark.parametrize("load", [artifacts.load_tensors, artifacts.load_json, artifacts.load_weights])
def test_missing_empty_and_truncated_files_are_named(tmp_path: Path, load: Callable[[Path], object]) -> None:
    file = tmp_path / "file"
    with pytest.raises(UserError, match="file is missing: `dvc repro` makes it"):
        load(file)
    artifacts.save_tensors(file, TENSORS)
    for content in (b"", file.read_bytes()[:-1], b"{"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"file is damaged .*: `python -m pipeline doctor --repair`, then"):
            load(file)


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.save_bytes(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*file: No space left on device: make room"):
        artifacts.save_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
