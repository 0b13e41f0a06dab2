"""A training that is stopped and restarted any number of times gives the same bytes as an uninterrupted one."""

import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import digests, prepare
from harness.tiny import pretrained_layernorms, random_images
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.progress import Progress
from pipeline.runtime import resume
from pipeline.store import artifacts
from pipeline.tuning import loop
from pipeline.tuning.loop import Schedule
from pipeline.tuning.state import Training

EPOCHS, STEPS = 3, 3
SCHEDULE = Schedule(batch_size=8, lr=0.02, epochs=EPOCHS, min_crop=0.5, flip=True)
OUTPUTS = ("artifacts/banks", "artifacts/auxiliary_heads")


class KilledError(BaseException):
    """Stands for a signal."""


class Doomed(Progress):
    """Raises KilledError after some steps, in place of a signal."""

    def __init__(self, steps: int) -> None:
        """`steps`: how many are left."""
        super().__init__("test", 0)
        self.steps = steps

    def step(self, images: int, loss: torch.Tensor | None = None) -> None:
        """One less."""
        if self.steps == 0:
            raise KilledError
        self.steps -= 1
        super().step(images, loss)


def tune(backbone: Backbone, state: Path, progress: Progress) -> dict[str, torch.Tensor]:
    layernorms, head = loop.tune(
        backbone,
        start=pretrained_layernorms(backbone),
        images=Images.of_pixels(random_images(20)),
        labels=torch.arange(20) % 4,
        schedule=SCHEDULE,
        generator=torch.Generator().manual_seed(5),
        progress=progress,
        epochs=partial(resume.epochs, state, progress),
    )
    return layernorms | {"head.weight": head.weight, "head.bias": head.bias}


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=st.lists(st.integers(0, EPOCHS * STEPS - 1), max_size=3))
def test_killed_at_any_steps_it_ends_the_same(
    backbone: Backbone, tmp_path_factory: pytest.TempPathFactory, lives: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("states")
    expected = tune(backbone, folder / "undisturbed", Progress("test", 0))
    done = 0
    for life in lives:
        if done + life // STEPS >= EPOCHS:
            break
        with pytest.raises(KilledError):
            tune(backbone, folder / "state", Doomed(life))
        done += life // STEPS  # no finished epoch is repeated, so fewer steps are left
    steps_left = Doomed((EPOCHS - done) * STEPS)
    result = tune(backbone, folder / "state", steps_left)
    assert steps_left.steps == 0
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"tuning": "layerwise", "layerwise.attention": True},
        {"tuning": "ia3"},
        {"tuning": "lora", "lora.mlp": True},
        {"selection": "latest", "tuning": "full"},
        {"tuning": "apt"},
        {"tuning": "synqt"},
        {"tuning": "diff_pruning", "diff_pruning.on": "layernorms"},
    ],
)
def test_the_stage_of_every_variant_goes_on_and_leaves_no_state(
    variant: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(Path("params.yaml"), min_crop=0.5, flip=True, **variant)
    prepare()
    run_stage("stage_one", "t1")
    run_stage("stage_one", "t2")
    expected = digests(*OUTPUTS)
    assert "resuming" not in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "end_epoch", killed_in_epoch(2))
        with pytest.raises(KilledError):
            run_stage("stage_one", "t2")
    assert len(list(resume.FOLDER.iterdir())) == 1
    artifacts.bank_file("t2").unlink()
    run_stage("stage_one", "t2")
    assert re.search("stage one, t2(, part 1 of 2)?: resuming after epoch 1 of 2", capsys.readouterr().out)
    assert digests(*OUTPUTS) == expected
    assert not list(resume.FOLDER.iterdir())


@pytest.mark.usefixtures("tiny_repository")
def test_a_training_in_parts_goes_on_in_its_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(Path("params.yaml"), tuning="diff_pruning", min_crop=0.5, flip=True)
    prepare()
    run_stage("stage_one", "t1")
    expected = digests(*OUTPUTS)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "end_epoch", killed_in_epoch(4, of_all=True))
        with pytest.raises(KilledError):
            run_stage("stage_one", "t1")
    artifacts.bank_file("t1").unlink()
    capsys.readouterr()
    run_stage("stage_one", "t1")
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(", loss.*", "", line) for line in lines] == [
        "stage one, t1, part 1 of 2: resuming after epoch 2 of 2",
        "stage one, t1, part 2 of 2: resuming after epoch 1 of 2",
        "stage one, t1, part 2 of 2: epoch 2/2",
    ]
    assert digests(*OUTPUTS) == expected
    assert not list(resume.FOLDER.iterdir())


def killed_in_epoch(last: int, *, of_all: bool = False) -> object:
    """of_all: counted from one training to the next."""
    end_epoch, ended = Progress.end_epoch, [0]

    def end(progress: Progress, epoch: int, epochs: int, *, remedy: str) -> None:
        ended[0] += 1
        if (ended[0] if of_all else epoch + 1) == last:
            raise KilledError
        end_epoch(progress, epoch, epochs, remedy=remedy)

    return end


def test_a_damaged_state_is_named_and_not_used(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tune(backbone, tmp_path / "undisturbed", Progress("test", 0))
    with pytest.raises(KilledError):
        tune(backbone, tmp_path / "state", Doomed(STEPS))
    whole = (tmp_path / "state").read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damaged in (flipped, whole[:-1], whole[:20], b""):
        (tmp_path / "state").write_bytes(damaged)
        result = tune(backbone, tmp_path / "state", Progress("test", 0))
        assert f"{tmp_path / 'state'} is damaged: starting from the first epoch" in capsys.readouterr().out
        assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_a_state_that_cannot_be_saved_costs_a_line(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    tune(backbone, tmp_path / "file/state", Progress("test", 0))
    output = capsys.readouterr().out
    assert output.count("a run that is killed now will repeat this epoch: cannot write") == EPOCHS


def test_states_that_nobody_came_back_for_are_removed(tmp_path: Path) -> None:
    for name, age in (("old", resume.KEPT_SECONDS + 60), (".old.1", resume.KEPT_SECONDS + 60), ("new", 60)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, times=(time.time() - age,) * 2)
    assert list(resume.epochs(tmp_path / "state", Progress("test", 0), training(), 0)) == []
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def training() -> Training:
    parameter = torch.zeros(1, requires_grad=True)
    return Training([parameter], torch.optim.Adam([parameter]), torch.Generator())


def changes() -> Iterator[tuple[str, str]]:
    yield "params.yaml", "lr"
    yield "params.yaml", "epochs"
    for file in (artifacts.train_file("t2"), artifacts.bank_file("t1"), artifacts.BACKBONE):
        yield str(file), ""


@pytest.mark.usefixtures("tiny_repository")
def test_a_state_belongs_to_all_that_the_numbers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare()
    run_stage("stage_one", "t1")
    cpu = torch.device("cpu")
    states = [resume.state_file("stage_one@t2", cpu)]
    assert resume.state_file("stage_one@t2", cpu) == states[0]
    set_params(Path("params.yaml"), classifier_lr=0.3)
    artifacts.train_file("t3").unlink()
    assert resume.state_file("stage_one@t2", cpu) == states[0], "none of these concerns the stage"
    for file, name in changes():
        if name:
            set_params(Path(file), **{name: 7})
        else:
            Path(file).write_bytes(Path(file).read_bytes() + b" ")
        states.append(resume.state_file("stage_one@t2", cpu))
    with monkeypatch.context() as patch:
        patch.setenv("PRECISION", "fp32")
        assert resume.state_file("stage_one@t2", cpu) == states[-1], "this is a CPU's own precision"
        patch.setenv("PRECISION", "bf16")
        states.append(resume.state_file("stage_one@t2", cpu))
    states += [resume.state_file("stage_one@t1", cpu), resume.state_file("stage_one@t2", torch.device("meta"))]
    monkeypatch.setattr(torch, "__version__", "0.1")
    states.append(resume.state_file("stage_one@t2", cpu))
    assert len(set(states)) == len(states)
    monkeypatch.setenv("DVC_ROOT", "/somewhere/else")
    assert resume.state_file("stage_one@t2", cpu) == Path("/somewhere/else") / states[-1]
