"""`dvc status` in a checkout lists only what the user has changed."""

import json
from collections.abc import Iterator
from pathlib import Path

from harness.dvc_repository import Repository
from harness.root import ROOT

UP_TO_DATE = "Data and pipelines are up to date."


def test_a_finished_checkout_is_clean_and_edited_code_calls_for_no_pretraining(repository: Repository) -> None:
    assert repository.dvc("status").strip() == UP_TO_DATE
    for folder in ("pipeline", "stages", "backbones"):
        for module in (repository.path / folder).rglob("*.py"):
            module.write_text(module.read_text() + "# edited\n")
    status = repository.dvc("status")
    assert "modified:           pipeline" in status
    assert "glyph_vit" not in status
    dry = repository.dvc("repro", "--dry", "--all-pipelines")
    assert "backbones.glyph_vit.pretrain" not in dry
    again = repository.dvc("repro", "--dry", "--force", "backbones/glyph_vit/dvc.yaml")
    assert "> python -m backbones.glyph_vit.pretrain" in again, "as its first line and README say"


def test_weights_that_were_edited_are_named(repository: Repository) -> None:
    (repository.path / "backbones/glyph_vit/summary.json").write_text("{}")
    assert "backbones/glyph_vit/dvc.yaml:glyph_vit" in repository.dvc("status")


def test_the_committed_state_is_clean(environment: dict[str, str], tmp_path: Path) -> None:
    """In a clone before `dvc pull`, only missing outputs may be listed."""
    clone = Repository(ROOT, environment).clone(tmp_path / "clone")
    status = json.loads(clone.dvc("status", "--json"))
    assert not [stage for stage in status if stage.startswith("backbones/")]
    if "modified" not in set(words(status["code"])):  # dvc.lock is of this code; between commits it may be of an older
        assert set(words(status)) == {"deleted", "not in cache"}


def words(status: object) -> Iterator[str]:
    """What `dvc status --json` says of each dependency and output, at any depth."""
    if isinstance(status, str):
        yield status
    if isinstance(status, dict):
        status = list(status.values())
    for part in status if isinstance(status, list) else []:
        yield from words(part)
