"""`python -m pipeline choose`: what it takes, what it writes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.dvc_repository import Repository
from harness.root import ROOT
from pipeline.errors import UserError
from pipeline.experiments.choice import GRID, Candidate, held_out, nested, pick
from pipeline.experiments.queue import read_sweep
from pipeline.params import read_mapping
from pipeline.params_file import changed_params

CANDIDATES = st.builds(
    Candidate,
    name=st.text(max_size=3),
    accuracy=st.floats(0, 1),
    forgetting=st.just(0.0),
    passes=st.sampled_from([1.0, 2.0, 5.0]),
    kept=st.sampled_from([1e4, 1e5, 1e6]),
    images=st.just(400),
)


@given(st.lists(CANDIDATES, min_size=1))
def test_nothing_cheaper_is_as_good_and_the_best_is_within_an_error(candidates: list[Candidate]) -> None:
    chosen, best = pick(candidates), max(candidate.accuracy for candidate in candidates)
    error = (best * (1 - best) / 400) ** 0.5
    assert chosen.accuracy >= best - error
    for other in candidates:
        if other.passes < chosen.passes:
            assert other.accuracy < best - error
        if other.passes == chosen.passes and other.kept < chosen.kept:
            assert other.accuracy < best - error


def test_one_model_is_taken_where_the_images_do_not_tell() -> None:
    one, two = Candidate("one", 0.80, 0.0, 1.0, 5e5, 400), Candidate("two", 0.81, 0.0, 2.0, 1e4, 400)
    assert pick([one, two]) == one
    clearly = Candidate("clearly", 0.85, 0.0, 2.0, 1e6, 400)
    assert pick([one, two, clearly]) == clearly
    larger = Candidate("larger", 0.81, 0.0, 1.0, 1e6, 400)
    assert pick([one, larger]) == one


def test_options_of_blocks_are_written_into_their_blocks() -> None:
    assert nested({"lr": 0.1, "lda.shrinkage": 0.2, "lda.per_block": True}) == {
        "lr": 0.1,
        "lda": {"shrinkage": 0.2, "per_block": True},
    }


def test_every_variant_of_the_list_can_be_written_and_says_all_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    declared = read_sweep(GRID)
    for changes in declared.variants.values():
        assert changed_params(**nested(changes))
        assert {"features", "selection", "classifier"} <= changes.keys(), "whatever params.yaml has now"


def test_the_presets_of_the_list_are_what_their_files_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    variants = read_sweep(GRID).variants
    for name in ("best", "best_photographs", "best_domains"):
        listed, preset = nested(variants[name]), read_mapping(Path(f"presets/{name}.yaml"))
        preset.pop("flip", None)  # a property of the images, not of the method
        assert {key: listed[key] for key in preset} == preset
    assert nested(variants["best, one block"]) == nested(variants["best"]) | {"features": "cls"}
    of_methods = read_sweep(Path("sweeps/methods.yaml")).variants
    assert nested(of_methods["C-LN best"]) == read_mapping(Path("presets/best.yaml"))


def test_every_run_is_on_held_out_images_from_the_seed_of_params_on(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 7")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        declared = read_sweep(GRID)
        patch.chdir(tmp_path)
        sweep = held_out(declared, 3)
        assert sweep.seeds == [7, 8, 9]
        assert all(changes["evaluate_on"] == "validation" for changes in sweep.variants.values())
        (tmp_path / "params.yaml").write_text("seed: x")
        with pytest.raises(UserError, match=r"params.yaml: seed: expected a whole number, found 'x'"):
            held_out(declared, 1)


@pytest.mark.slow
def test_the_winner_is_written_and_nothing_runs_twice(repository: Repository) -> None:
    variants = "{worse: {classifier: softmax, classifier_lr: 1.0e-6}, better: {classifier: lda, lda.shrinkage: 0.2}}"
    (repository.path / "grid.yaml").write_text(f"seeds: [0]\nvariants: {variants}\n")
    command = ("python", "-m", "pipeline", "choose", "grid.yaml", "-j", "1", "--yes")
    output = repository.run(*command)
    assert "params.yaml has better now: `dvc repro` runs it" in output
    assert "held-out training images" in output
    params = read_mapping(repository.path / "params.yaml")
    assert (params["classifier"], params["lda"]["shrinkage"], params["evaluate_on"]) == ("lda", 0.2, "test")
    repository.run("git", "checkout", "params.yaml")
    again = repository.run(*command)
    assert "2 experiments: 2 finished, 0 waiting, 0 new" in again
    assert "params.yaml has better now" in again
