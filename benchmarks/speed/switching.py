"""Times another selector or classifier on finished LayerNorms: python -m benchmarks.speed.switching [ROUNDS].

After each change, `python -m pipeline.dvc repro --no-run-cache` runs in a clone: everything that the change affects is
computed, and nothing else. Writes reports/benchmarks/switching.{md,json}.
"""

import re
import subprocess
import sys
import time
from statistics import median
from typing import Any

from benchmarks.speed.ratios import machine_name
from harness.clone import ROOT, clone, configure, run_dvc
from pipeline.parts import names
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/switching.json"
GOAL = 20.0  # seconds
DEFAULTS = {"selector": "key", "classifier": "softmax"}
NAMES = {  # carried_gaussians needs one model for all, so other training
    "selector": names("selector"),
    "classifier": [name for name in names("classifier") if name != "carried_gaussians"],
}


def main() -> None:
    """Switch to each value in turn, several times; print and write the times."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = clone("switching")
    run_dvc(folder, "repro")
    choices = [
        (parameter, name)
        for parameter, names in NAMES.items()
        for name in (*(name for name in names if name != DEFAULTS[parameter]), DEFAULTS[parameter])
    ]  # back at the defaults before the other parameter changes, and before the next round
    seconds: dict[tuple[str, str], list[float]] = {choice: [] for choice in choices}
    stages: dict[tuple[str, str], list[str]] = {}
    for _ in range(rounds):
        for parameter, name in choices:
            configure(folder, **{parameter: name})
            command = [sys.executable, "-m", "pipeline.dvc", "repro", "--no-run-cache"]
            started = time.perf_counter()
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
            ran = re.findall(r"Running stage '(\w+)", done.stdout)
            seconds[parameter, name].append(time.perf_counter() - started)
            stages[parameter, name] = ran
            print(f"{parameter}: {name}, {seconds[parameter, name][-1]:.1f} s", flush=True)
    rows: list[dict[str, Any]] = [
        {
            "parameter": parameter,
            "value": name,
            "seconds": round(median(took), 1),
            "spread": [round(min(took), 1), round(max(took), 1)],
            "goal": GOAL,
            "stages": len(stages[parameter, name]),
            "stages_with_passes": sum(stage in ("stage_one", "features") for stage in stages[parameter, name]),
        }
        for (parameter, name), took in seconds.items()
    ]
    machine = machine_name()
    artifacts.save_plain_json(RESULT, {"machine": machine, "rounds": rounds, "rows": rows})
    cells = [
        (
            f"`{row['parameter']}: {row['value']}`",
            f"{row['seconds']} ({row['spread'][0]} to {row['spread'][1]})",
            str(row["stages"]),
            str(row["stages_with_passes"]),
        )
        for row in rows
    ]
    text = f"""\
# Another selector or classifier on finished LayerNorms

`python -m benchmarks.speed.switching` wrote this:
median and range of {rounds} rounds on {machine}, with the default data.
The goal is {GOAL:.0f} s. `entropy` runs every image under the LayerNorms of every task, which takes the most passes.
`carried_gaussians` is left out: it needs `selection: average`.

{table(("change", "seconds", "stages", "of them with passes"), cells)}
"""
    artifacts.save_bytes(RESULT.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
