"""What the benchmarks make of results, without running them."""

import json

from benchmarks.cifar100_vit_tiny import NUM_TASKS, PARAMS, page, rows_of
from pipeline.methods import METHODS


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
