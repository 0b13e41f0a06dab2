"""The pictures of README and docs: as the numbers and layers say, and their labels apart."""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.pictures import rooms
from benchmarks.pictures.__main__ import PICTURES, contents
from benchmarks.pictures.cost import cifar, glyphs
from benchmarks.pictures.style import FOLDER, THEMES, label
from harness.root import ROOT


def test_the_files_are_what_the_numbers_say() -> None:
    for name, content in contents().items():
        assert (FOLDER / name).read_bytes() == content, f"{name}: `make pictures` draws it again"


@pytest.mark.parametrize("picture", PICTURES)
def test_a_page_shows_each_picture_for_light_and_dark(picture: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = [page for page in pages if f"{picture}-light.svg" in page.read_text(encoding="utf-8")]
    assert shown
    for page in shown:
        assert f"{picture}-dark.svg" in page.read_text(encoding="utf-8")


def test_every_method_with_numbers_is_drawn() -> None:
    names = {point.name for point in (*glyphs(), *cifar())}
    assert {"C-LN", "LoRA", "(IA)³", "APT", "diff pruning", "linear discriminant", "whole backbone"} <= names
    assert max(glyphs(), key=lambda point: point.accuracy).name == "LayerNorms (preset best)"
    assert max(cifar(), key=lambda point: point.accuracy).name == "preset best_photographs"
    assert "LayerNorms (preset best)" in {point.name for point in cifar()}


def test_labels_of_close_points_do_not_cover_one_another() -> None:
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    boxes = label(axes, [(5 + 0.1 * n, 5 + 0.1 * n, f"method {n}", THEMES["light"]["ink"]) for n in range(4)])
    assert len(boxes) == 4
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)


def test_every_room_says_what_it_is_for() -> None:
    for layer in rooms.layers():
        for module in layer:
            told = rooms.fitting(rooms.sentence(module), 30)
            assert told
            assert told.count("\n") <= 1
