"""Damaged artifacts: never a wrong number, always one line that names the file and the remedy."""

import functools
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.damage import HARMLESS, KINDS, NAMED, Damage, outcome, readers
from harness.stage_order import run_stage
from harness.stage_repository import digests
from pipeline import params
from pipeline.errors import UserError
from pipeline.store import artifacts

DAMAGES = st.builds(Damage, st.sampled_from(KINDS), st.floats(0, 1), st.integers(0, 7))


@pytest.fixture
def parsed_once(tiny_finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished repository. Its YAML is parsed only once instead of per stage, since no test here changes it."""
    monkeypatch.setattr("pipeline.params.read_mapping", functools.cache(params.read_mapping))
    return tiny_finished


@settings(
    derandomize=True, max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_artifact_is_named_or_changes_nothing(parsed_once: Path, data: st.DataObject) -> None:
    files = readers()
    unread = digests("data", "artifacts").keys() - {str(path) for path in files}
    by_predict = {artifacts.LEARNER.as_posix()}  # tests/test_predict.py
    after_chain = {name for name in unread if name.endswith(("/t4.json", "/t4.safetensors"))}  # three tasks are learned
    assert all(name.startswith("artifacts/code/") for name in unread - by_predict - after_chain)
    file = data.draw(st.sampled_from(sorted(files)))
    reader = data.draw(st.sampled_from(files[file]))
    content = file.read_bytes()
    damaged = data.draw(DAMAGES).of(content)
    file.write_bytes(damaged)

    def others() -> dict[str, str]:
        return {name: digest for name, digest in digests("data", "artifacts", "reports").items() if name != str(file)}

    try:
        result = outcome(file, lambda: run_stage(reader.stage, *reader.arguments), others)
    finally:
        file.write_bytes(content)
    assert result in (NAMED, HARMLESS), (parsed_once, file, reader)


def test_a_file_under_another_name_is_damaged(tmp_path: Path) -> None:
    """A single flipped bit in DVC's listing of a folder turns t1 into t3."""
    artifacts.save_json(tmp_path / "t1.json", {"task": 1})
    shutil.copy(tmp_path / "t1.json", tmp_path / "t3.json")
    with pytest.raises(UserError, match=r"t3.json is damaged .its checksum does not match"):
        artifacts.load_json(tmp_path / "t3.json")


@settings(derandomize=True)
@given(DAMAGES, st.binary(min_size=1, max_size=20000))
def test_damage_is_damage(damage: Damage, content: bytes) -> None:
    """Except if zeros replace zeros."""
    changed = damage.of(content)
    assert changed != content or (damage.kind == "zeros" and 0 in content)
