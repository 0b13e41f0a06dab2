"""Profiles an epoch of stage one: `python -m benchmarks.speed.profile_step`.

Writes reports/benchmarks/profile.md.

Before: torch's deterministic mode by default, which fills every new tensor. After: as the pipeline sets it.
"""

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.ratios import compared, machine_name
from benchmarks.speed.step_costs import Workload, stage_one, workload
from harness.clone import ROOT
from pipeline.report.text import table
from pipeline.store import artifacts

RESULT = ROOT / "reports/benchmarks/profile.md"
SHOWN = 12


def shares(work: Workload) -> dict[str, tuple[float, int]]:
    """Share of the time (%) and calls of each operation in an epoch, after a warm-up epoch."""
    stage_one(work, work.names)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        stage_one(work, work.names)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: (100 * event.self_cpu_time_total / total, event.count) for event in events}


def section(name: str) -> str:
    """Both profiles of a model, side by side."""
    work = workload(name)

    def filling(*, on: bool) -> None:
        torch.utils.deterministic.fill_uninitialized_memory = on  # type: ignore[attr-defined]
        stage_one(work, work.names)

    ratio = compared("", "", lambda: filling(on=True), lambda: filling(on=False))
    found = []
    for on in (True, False):
        torch.utils.deterministic.fill_uninitialized_memory = on  # type: ignore[attr-defined]
        found.append(shares(work))
    before, after = found
    cells = []
    for key in sorted(before, key=lambda key: -before[key][0])[:SHOWN]:
        pairs = (before[key], after.get(key, (0.0, 0)))
        cells.append((f"`{key}`", *(text for share, count in pairs for text in (f"{share:.1f}", str(count)))))
    return f"""\
## {name}

Time before / after: {ratio["ratio"]:.2f} ({ratio["spread"][0]:.2f} to {ratio["spread"][1]:.2f}).

{table(("operation", "before (%)", "calls", "after (%)", "calls"), cells)}
"""


def main() -> None:
    """Profile both models, print, write."""
    threads = f"{machine_name()}, {torch.get_num_threads()} threads"
    intro = "Own time of operations in an epoch of stage one, forward and backward (benchmarks.speed.profile_step)."
    sections = "\n".join(section(name) for name in ("glyph_vit", "vit_tiny_patch16_224"))
    page = f"# Profile of stage one\n\n{intro} {threads}.\n\n{sections}"
    artifacts.save_bytes(RESULT, page.encode())
    print(page)


if __name__ == "__main__":
    main()
