"""How benchmarks summarise results, without running them."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.studies import domains, methods_page
from benchmarks.studies.beyond import rows_of_one_model, setting_of
from benchmarks.studies.cifar100_vit_tiny import NUM_TASKS, PARAMS, page, rows_of
from benchmarks.studies.finished_run import load_run
from benchmarks.studies.methods import as_published, at_rate, recipes, settings_of
from harness.root import ROOT
from pipeline.evaluation.methods import METHODS
from pipeline.params import read_mapping
from pipeline.store import artifacts


def test_rows_are_means_and_deviations_over_seeds_in_percent() -> None:
    def result(c_ln: float) -> dict[str, object]:
        matrices = {name: [[0.5], [0.4, 0.2]] for name in METHODS}
        return {"matrices": matrices | {"c_ln": [[0.9], [c_ln, 0.5]]}}

    rows = {row["name"]: row for row in rows_of({3: result(0.6), 5: result(0.8)})}
    c_ln = rows["C-LN"]
    assert (c_ln["average_accuracy_mean"], c_ln["average_accuracies"], c_ln["seeds"]) == (60.0, [55.0, 65.0], [3, 5])
    assert c_ln["average_accuracy_std"] == round(50**0.5, 2)
    assert c_ln["forgetting_mean"] == 20.0
    assert rows["frozen backbone, same head"]["average_accuracy_mean"] == 30.0
    report = {"rows": list(rows.values()), "params": PARAMS, "seeds": [3, 5], "test_images": 2000, "seconds": [9, 8]}
    text = page(report | {"machine": "two cores", "selection_accuracy_mean": 0.25, "passes_per_image_mean": 2.5})
    assert "| C-LN | 60.0 ± 7.1 | 20.0 |" in text
    assert f"{NUM_TASKS} tasks of 10 classes, 2,000 test images, seeds\n3, 5." in text
    json.dumps(report)


def test_every_setting_has_pages_and_tasks_of_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "dataset: image_folder\ndata_dir: images/mine\ntask_classes: [[cat, dog], [car], [cow, pig, hen]]\n"
    )
    setting = setting_of(None, None, mine)
    assert (setting.name, setting.num_tasks) == ("beyond_mine", 3)
    assert setting.changes["data_dir"] == str(ROOT / "images/mine")
    mine.write_text("num_tasks: 7\n")
    assert setting_of(None, None, mine).num_tasks == 7
    names = {setting_of(None, None, None).name, setting.name}
    assert names == {"beyond_glyphs", "beyond_mine"}
    for taken in ("glyphs", "validation", "mine_validation"):
        other = mine.rename(tmp_path / f"{taken}.yaml")
        with pytest.raises(SystemExit, match="another result's page"):
            setting_of(None, None, other)
        mine = other


@pytest.mark.parametrize("names", [[], ["cat", "dog"], [f"class {c}" for c in range(100)]])
def test_the_pages_of_cifar100_are_written_from_cifar100_only(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(SystemExit, match="does not have the 100 classes of CIFAR-100"):
        setting_of(tmp_path, tmp_path / "weights", None)
    with pytest.raises(SystemExit, match="give IMAGES and WEIGHTS of CIFAR-100, or --params"):
        setting_of(tmp_path, None, None)


@pytest.mark.usefixtures("tiny_finished")
def test_the_frozen_backbone_is_among_the_rows_beyond() -> None:
    params = read_mapping(Path("params.yaml"))
    rows = dict(rows_of_one_model("cls", load_run(params["seed"], 3, params), params))
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    for classifier, metric in (("lda", "frozen_lda_accuracy"), ("ncm", "frozen_ncm_accuracy")):
        found = rows["cls", "frozen", classifier, "none"]["average_accuracy"]
        assert found == pytest.approx(100 * metrics[metric], abs=1e-3)


@pytest.mark.usefixtures("tiny_finished")
def test_the_first_vector_of_richer_features_gives_the_rows_of_the_models_own_output() -> None:
    params = read_mapping(Path("params.yaml"))
    plain, richer = (load_run(params["seed"], 3, params, features) for features in ("cls", "last_2"))
    assert richer.layout.vectors == 4
    assert richer.test_queries.shape[1] == 4 * plain.test_queries.shape[1]
    own_output = richer.read(1, 1)
    torch.testing.assert_close(own_output.test_features, plain.test_features)
    torch.testing.assert_close(own_output.average.before[1], plain.average.before[1])
    cut = dict(rows_of_one_model("cls", own_output, params))
    assert cut == dict(rows_of_one_model("cls", plain, params))
    rows = dict(rows_of_one_model("last_2", richer, params))
    bound = ("recomputed", "lda", "none")
    assert rows["last_2", *bound]["bytes_per_task"] > cut["cls", *bound]["bytes_per_task"]


def test_a_rate_is_also_that_of_an_alignment() -> None:
    params = settings_of(None, None)["glyphs"] | recipes()["slca"]
    assert at_rate(params, params["lr"]) == params, "the published rate is the published recipe"
    assert at_rate(params, 0.003) == params | {"lr": 0.003, "slca": params["slca"] | {"lr": 0.3}}
    other = settings_of(None, None)["glyphs"] | recipes()["ease"]
    assert at_rate(other, 0.1) == other | {"lr": 0.1}


def test_the_published_rate_is_kept_unless_another_is_clearly_better() -> None:
    assert as_published({0.01: 70.0, 0.03: 71.0, 0.1: 60.0}, 0.01, held_out=400) == 0.01
    assert as_published({0.01: 66.0, 0.03: 71.0, 0.1: 60.0}, 0.01, held_out=400) == 0.03
    assert as_published({0.01: 70.0, 0.03: 71.0}, 0.01, held_out=40_000) == 0.03, "many images tell them apart"
    assert as_published({0.01: 5.0, 0.03: 70.5, 0.1: 71.0}, 0.01, held_out=400) == 0.03
    assert as_published({0.01: 0.0, 0.03: 0.0}, 0.01, held_out=100) == 0.01, "all of them diverge"


def evaluation_of_domains(accuracy: float) -> dict[str, object]:
    """Two domains, the first of which forgets nothing."""
    return {
        "domains": ["wavy", "faint"],
        "matrices": {"c_ln": [[accuracy], [accuracy, 0.5]]},
        "selection": [[3, 1], [0, 4]],
        "metrics": {"average_accuracy": (accuracy + 0.5) / 2, "passes_at_inference": 2.0},
    }


def test_the_study_of_domains_chooses_on_held_out_images_and_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_on = {"validation": "average", "test": "query"}  # and the row that knows the domain is better still
    calls = []

    def measure(params: dict[str, object]) -> dict[str, object]:
        calls.append((params["evaluate_on"], params["selection"], params["order"]))
        is_best = params["selection"] == best_on[str(params["evaluate_on"])]
        return domains.run_of(evaluation_of_domains(0.99 if params["selection"] == "oracle" else 0.6 + 0.2 * is_best))

    monkeypatch.setattr(domains, "measure", measure)
    monkeypatch.setattr(domains, "SCRATCH", tmp_path)
    monkeypatch.setattr(domains, "code_digest", lambda _: "the same code")  # this and the next take seconds
    monkeypatch.setattr(domains, "machine_name", lambda: "two cores")
    domains.main(seeds="0,1", only="", most_epochs=1, out=tmp_path / "domains.json")
    report = json.loads((tmp_path / "domains.json").read_text())
    assert report["chosen"] == "best"
    assert [row["name"] for row in report["rows"]] == list(read_mapping(domains.GRID)["variants"])
    held_out = {(selection, order) for images, selection, order in calls if images == "validation"}
    assert ("oracle", "sequential") not in held_out
    assert all(order == "sequential" for _, order in held_out)
    text = (tmp_path / "domains.md").read_text()
    assert "| **best** | 65.0 ± 0.0 | 55.0 ± 0.0 | -10.0 [-10.0, -10.0] |" in text
    assert "| wavy | 75.0 | faint 25.0 |" in text

    calls.clear()
    domains.main(seeds="0,1", only="", most_epochs=1, out=tmp_path / "domains.json")
    assert not calls, "nothing is measured again"
    domains.main(seeds="0,1", only="", most_epochs=2, out=tmp_path / "domains.json")
    assert calls, "other parameters are other results"


def test_a_page_keeps_the_rows_of_a_setting_that_was_not_run(tmp_path: Path) -> None:
    def report(setting: str, accuracy: float) -> dict[str, object]:
        row = {"setting": setting, "method": "c_ln", "average_accuracy_mean": accuracy}
        return {"rows": [row], "rates": {f"{setting} c_ln": {"lr": accuracy}}, "machine": "mine", "trials": 4}

    page = tmp_path / "methods"
    for setting, accuracy in (("cifar100_vit_tiny", 1.0), ("glyphs", 2.0), ("cifar100_vit_tiny", 3.0)):
        joined = methods_page.with_other_settings(report(setting, accuracy), page)
        artifacts.save_plain_json(page.with_suffix(".json"), joined)
    assert [(row["setting"], row["average_accuracy_mean"]) for row in joined["rows"]] == [
        ("glyphs", 2.0),
        ("cifar100_vit_tiny", 3.0),
    ]
    assert joined["rates"] == {"glyphs c_ln": {"lr": 2.0}, "cifar100_vit_tiny c_ln": {"lr": 3.0}}
