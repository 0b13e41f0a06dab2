"""Bad parameters: one line that says so, or a run. python -m benchmarks.faults.bad_input tries 500 of them."""

import io
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.faults.bad_input import QUIET
from harness.bad_params import PIECES, files
from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_order import in_order, run_stage
from harness.stage_repository import refusal
from pipeline.__main__ import app
from pipeline.errors import UserError, visible
from pipeline.evaluation.correction import arc
from pipeline.experiments.queue import read_sweep
from pipeline.params import PARAMS_FILE, read_mapping, read_params
from pipeline.progress import Progress
from pipeline.runtime.command import run
from stages import stage_two

LONG = 1100  # characters of an error, at most


def run_stages() -> None:
    """Run every stage except the first and the last, in order."""
    for name, *arguments in in_order(2)[1:-1]:
        run_stage(name, *arguments)


def apply_preset() -> None:
    """Write presets/mine.yaml into params.yaml."""
    CliRunner().invoke(app, ["preset", "mine", "--yes"], catch_exceptions=False)


@pytest.mark.usefixtures("tiny_repository")
@settings(QUIET, max_examples=8)
@given(st.data())
def test_any_parameters_run_or_are_refused(data: st.DataObject) -> None:
    if not Path("original.yaml").exists():
        set_params(PARAMS_FILE, num_tasks=1, tasks={"t1": {"prev": "t0"}}, epochs=1, classifier_epochs=1)
        PARAMS_FILE.rename("original.yaml")
    PARAMS_FILE.write_bytes(data.draw(files(read_mapping(Path("original.yaml")))))
    message = refusal(run_stages)
    assert message == visible(message)
    assert len(message) < LONG


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("piece", range(len(PIECES)))
def test_no_piece_of_yaml_runs_hangs_or_ends_otherwise(piece: int) -> None:
    good = PARAMS_FILE.read_bytes()
    Path("presets").mkdir()
    for content in (PIECES[piece], PIECES[piece] + good, good + PIECES[piece]):
        PARAMS_FILE.write_bytes(content)
        Path("presets/mine.yaml").write_bytes(content)
        for read in (lambda: read_params(stage_two.Params), lambda: read_sweep(PARAMS_FILE), apply_preset):
            assert len(refusal(read)) < LONG
    assert not Path("pwned").exists()


def test_a_temperature_of_any_height_is_a_temperature() -> None:
    """Raised to the power of the number of tasks it overflows. This used to crash evaluate, the last stage but one."""
    answer = arc(torch.randn(9, 4), torch.tensor([0, 1, 2, 2]), gamma=1e308, temperature=1e308)
    assert answer.shape == (9,)


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 10**30}, "batch_size: input should be less than or equal to 1000000, found 1000000"),
        ({"seed": 2**64}, "seed: input should be less than"),
        ({"lr": 1e30}, "lr: input should be less than or equal to 1000, found 1e[+]30"),
        ({"epochs": 10**7}, "epochs: input should be less than or equal to 1000000, found 10000000"),
        ({"image_size": 10**5}, "image_size: input should be less than or equal to 4096, found 100000"),
        ({"layernorm.norms": "x" * 10**5}, "layernorm.norms: string should match pattern .*, found 'x{12}[.]{3}x{13}'"),
    ],
)
def test_absurd_values_are_refused_where_they_are_read(changes: dict[str, object], message: str) -> None:
    set_params(PARAMS_FILE, **changes)
    with pytest.raises(UserError, match=rf"params.yaml: {message}"):
        run_stage("stage_one", "t1")


@pytest.mark.usefixtures("tiny_repository")
def test_a_chain_that_dvc_could_not_read_is_not_written() -> None:
    before = PARAMS_FILE.read_bytes()
    assert CliRunner().invoke(app, ["plan", "1000000000"]).exit_code == 2
    shutil.copytree(ROOT / "presets", "presets")
    Path("presets/mine.yaml").write_text("num_tasks: many\n")
    with pytest.raises(UserError, match="num_tasks: expected 1 to 1000, found 'many'"):
        apply_preset()
    assert PARAMS_FILE.read_bytes() == before


def test_a_loss_that_is_not_finite_names_task_epoch_and_remedy() -> None:
    progress = Progress("stage two, t3, tuned", 0)
    progress.step(1, torch.tensor(1.0))
    progress.step(1, torch.tensor(float("nan")))
    expected = r"^stage two, t3, tuned: the loss is not finite in epoch 2 of 5: lower classifier_lr \(0\.1\)$"
    with pytest.raises(UserError, match=expected):
        progress.end_epoch(1, 5, remedy="lower classifier_lr (0.1)")


NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
]


@pytest.mark.parametrize("error", [*NO_MEMORY, RuntimeError("an illegal memory access was encountered")])
def test_memory_that_does_not_suffice_is_a_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises((SystemExit, RuntimeError)) as raised:
        run(main)
    expected = "error: out of memory: lower image_size or batch_size in params.yaml"
    assert (str(raised.value) == expected) == (error in NO_MEMORY)


def test_letters_that_a_terminal_lacks_are_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii", write_through=True))
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit):
        run(lambda: print("relief ნ"))
    assert terminal.getvalue() == b"relief ?\n"


@given(st.text())
@settings(QUIET, max_examples=100)
def test_an_error_is_one_line_that_no_terminal_obeys(text: str) -> None:
    message = str(UserError(f"{text}: remedy"))
    assert message.isprintable()
    assert message.endswith(": remedy")
    assert len(str(UserError(text * 2000))) < LONG
