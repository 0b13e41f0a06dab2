"""The exported learner: sizes, and seconds to export, load and predict beside `stages.predict`.

    python -m benchmarks.speed.learner FOLDER     # a folder in which the pipeline has finished: `dvc repro`

All in one run on one thread. Seconds are given as ratios, since other work on the machine moves them. The size for a
ViT-B is of random weights: no file depends on their values. Writes reports/benchmarks/learner.{md,json}.
"""

import contextlib
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks.speed.ratios import machine_name
from harness.clone import ROOT
from pipeline.backbone.timm_vit import create_model
from pipeline.data.images import Images
from pipeline.export.write import write_folder
from pipeline.inference.manifest import read_manifest
from pipeline.prediction.learner import Learner
from pipeline.report.text import table
from pipeline.store import artifacts
from pipeline.tuning.norms import NormOptions, norm_parameters
from stages import predict

RESULT = ROOT / "reports/benchmarks/learner.json"
COUNT, TASKS, REPEATS = 1000, 10, 3
VIT_B = "vit_base_patch16_224"


@dataclass(frozen=True)
class Row:
    """What was measured."""

    what: str
    value: float
    unit: str


def seconds(act: Callable[[], object]) -> float:
    """Wall time."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def in_turn(acts: Sequence[Callable[[], object]]) -> list[float]:
    """The median seconds of each, which run in turn, so that other work on the machine meets all alike."""
    taken = [[seconds(act) for act in acts] for _ in range(REPEATS)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def write_pictures(folder: Path) -> list[str]:
    """The first test images as PNG files."""
    images = Images.from_tensors(artifacts.load_tensors(artifacts.TEST))
    size = read_manifest().settings.image_size
    for number, pixels in enumerate(images[torch.arange(min(COUNT, len(images)))].pixels(size)):
        Image.fromarray(pixels.numpy()).save(folder / f"{number:04d}.png")
    return [str(path) for path in sorted(folder.glob("*.png"))]


def predicted(names: Sequence[str]) -> None:
    """`python -m stages.predict`, without the start of Python."""
    app = typer.Typer()
    app.command()(predict.main)
    done = CliRunner().invoke(app, ["--format", "csv", *names])
    assert done.exit_code == 0, done.output


def of_learner(scratch: Path) -> list[Row]:
    """Sizes, and seconds beside those of `stages.predict` for the same pictures."""
    (scratch / "pictures").mkdir()
    names = write_pictures(scratch / "pictures")
    learner, graph = scratch / "learner", scratch / "onnx"

    def export() -> None:
        shutil.rmtree(learner, ignore_errors=True)
        write_folder(learner, "learner")

    export()
    loaded = Learner.load(learner)
    reference, *taken = in_turn(
        [lambda: predicted(names), export, lambda: Learner.load(learner), lambda: loaded.predict(names)]
    )
    found = [Row(f"`stages.predict`, {len(names)} files", reference, "s")]
    for what, of_one in zip(("export", "load", f"predict {len(names)} files"), taken, strict=True):
        found.append(Row(f"{what} / `stages.predict` of {len(names)} files", of_one / reference, "x time"))
    with contextlib.redirect_stdout(io.StringIO()):
        write_folder(graph, "onnx")
    for folder in (learner, graph):
        found.append(Row(f"size, {folder.name}", sum(file.stat().st_size for file in folder.iterdir()) / 1e6, "MB"))
    without = sum(file.stat().st_size for file in learner.iterdir() if file.name != "backbone.safetensors")
    return [*found, Row("size, learner without its backbone", without / 1e6, "MB"), *onnx_rows(graph, loaded)]


def onnx_rows(graph: Path, learner: Learner) -> list[Row]:
    """Images per second of ONNX Runtime beside torch, both on one thread, from the same pixels."""
    import onnxruntime  # noqa: PLC0415  (an extra)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph / "model.onnx", options, providers=["CPUExecutionProvider"])
    size = learner.finished.settings.image_size
    pixels = torch.randint(256, (256, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of_torch, of_onnx = in_turn(
        [
            lambda: learner.engine.predict(Images.of_pixels(pixels)),
            lambda: session.run(None, {"pixels": pixels.numpy()}),
        ]
    )
    return [
        Row("torch", len(pixels) / of_torch, "images/s"),
        Row("ONNX Runtime", len(pixels) / of_onnx, "images/s"),
        Row("ONNX Runtime / torch", of_torch / of_onnx, "x images/s"),
    ]


def vit_b_row(scratch: Path) -> Row:
    """The file of the LayerNorms of ten tasks of a ViT-B, as a learner's folder holds it."""
    model = create_model(VIT_B, pretrained=False, num_classes=0)
    names = norm_parameters(model, NormOptions(norms="all", parameters="both"))
    rows = {name: model.get_parameter(name).detach().repeat(TASKS, 1) for name in names}
    artifacts.save_tensors(scratch / "tuned.safetensors", rows)
    size = (scratch / "tuned.safetensors").stat().st_size
    return Row(f"size, LayerNorms of {TASKS} tasks of {VIT_B} (random weights; goal: below 2)", size / 1e6, "MB")


def page(report: dict[str, Any]) -> str:
    """The table in Markdown."""
    cells = [(row["what"], f"{row['value']:.3g}", row["unit"]) for row in report["rows"]]
    lines = ["# The exported learner", "", f"One thread on {report['machine']}. Beside it ran: {report['beside']}.", ""]
    how = "`python -m benchmarks.speed.learner FOLDER` measures it."
    return "\n".join([*lines, table(("what", "value", "unit"), cells), "", how, ""])


def main(
    folder: Annotated[Path, typer.Argument(help="A folder in which the pipeline has finished.")],
    beside: Annotated[str, typer.Option(help="What else the machine was doing.")] = "nothing",
) -> None:
    """Measure, and write the page."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(folder):
        scratch = Path(temporary)
        rows = [*of_learner(scratch), vit_b_row(scratch)]
    report = {"machine": machine_name(), "beside": beside, "rows": [vars(row) for row in rows]}
    artifacts.save_bytes(RESULT, (json.dumps(report, indent=2) + "\n").encode())
    artifacts.save_bytes(RESULT.with_suffix(".md"), page(report).encode())
    print(page(report))


if __name__ == "__main__":
    typer.run(main)
