"""Where images may lie: DVC notices all files that are read; `make clean` and stages leave other files alone."""

import subprocess
from pathlib import Path

import pytest
from dvc.fs import localfs
from dvc.ignore import DvcIgnoreFilter
from PIL import Image

from harness.dvc_repository import Repository, ran
from harness.parameters import set_params
from harness.root import ROOT
from harness.stage_repository import refusal
from pipeline.data.datasets import fetch_dataset
from pipeline.health import doctor


def write(folder: Path, count: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name / f"{index}.png")


def read(folder: str) -> str:
    return refusal(lambda: fetch_dataset("image_folder", data_dir=Path(folder), scratch=Path()))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks to DVC like a repository of this project, as the working folder."""
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    for name in ("dvc.yaml", ".dvcignore"):
        Path(name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("folder", "named"),
    [
        ("downloads/pets", "downloads is ignored by DVC (.dvcignore:"),
        (".scratch/pets", ".scratch is ignored by DVC"),
        (".venv/pets", ".venv is ignored by DVC"),
        (".dvc/pets", ".dvc is ignored by DVC"),
        (".git/pets", ".git is ignored by DVC"),
        ("__pycache__/pets", "__pycache__ is ignored by DVC"),
    ],
)
def test_a_folder_that_dvc_ignores_is_refused_by_name(folder: str, named: str) -> None:
    write(Path(folder))
    assert named in read(folder)
    assert named in read(str(Path(folder).absolute()))


@pytest.mark.usefixtures("project")
def test_a_class_that_dvc_ignores_is_refused_by_name() -> None:
    write(Path("images"), classes=("downloads", "cat"))
    assert read("images") == ""
    write(Path("images"), classes=("__pycache__",))
    assert "images/__pycache__ is ignored by DVC (.dvcignore:" in read("images")


@pytest.mark.usefixtures("project")
def test_a_repository_of_its_own_is_refused_by_name() -> None:
    write(Path("pets"))
    Path("pets/.dvc").mkdir()
    assert "pets is ignored by DVC" in read("pets")


@pytest.mark.usefixtures("project")
def test_a_folder_elsewhere_may_be_called_anything(tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "downloads/pets")
    assert read(str(elsewhere / "downloads/pets")) == ""
    Path("linked").symlink_to(elsewhere / "downloads/pets")
    assert read("linked") == ""


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("folder", ["data/raw", "data/raw/pets", "data", ".", "artifacts", "data/train/x", "linked"])
def test_images_within_outputs_or_around_them_are_refused(folder: str) -> None:
    Path("data/raw/pets").mkdir(parents=True)
    Path("linked").symlink_to("data/raw/pets")
    if folder != "linked":
        write(Path(folder))
    assert read(folder).startswith(f"data_dir {folder}: the pipeline writes ")


@pytest.mark.usefixtures("project")
def test_the_doctor_says_what_dvc_does_not_notice_and_removes_no_image() -> None:
    write(Path("data/pets"))
    write(Path("elsewhere"))
    hidden = Path("data/pets/cat/.photo.123456789")
    hidden.write_bytes(b"a user's")
    for dataset, findings in (("glyphs", 0), ("image_folder", 1)):
        Path("params.yaml").write_text(f"dataset: {dataset}\ndata_dir: data/pets\n")
        assert [finding.ok for finding in doctor.check_images()] == [True] * findings
    assert hidden not in {finding.remove for finding in doctor.check_leftovers()}
    Path("data/pets/bird").symlink_to(Path("elsewhere").absolute())
    (finding,) = doctor.check_images()
    assert "images: data/pets/bird is a link to a folder" in finding.what


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("folder", ["data/pets", "artifacts/pets", "reports/pets", "./images/"])
def test_images_beside_outputs_are_read(folder: str) -> None:
    write(Path(folder))
    assert read(folder) == ""


def clean() -> None:
    subprocess.run(["make", "-sf", ROOT / "Makefile", "clean"], check=True)


@pytest.mark.usefixtures("tiny_finished")
def test_make_clean_removes_all_that_stages_wrote() -> None:
    assert Path("artifacts/heads/t3.safetensors").exists()
    clean()
    assert not Path("data").exists()
    assert not Path("artifacts").exists()


@pytest.mark.usefixtures("tiny_finished")
def test_make_clean_removes_nothing_else() -> None:
    places = ["data", "data/raw", "data/train", "artifacts", "artifacts/heads", "artifacts/queries/train", "elsewhere"]
    for place in places:
        write(Path(place, "pets"))
        Path(place, "vit.safetensors").write_bytes(b"weights")
        Path(place, "labels.json").write_bytes(b"{}")
    kept = {path for path in Path().rglob("*") if path.name in ("vit.safetensors", "0.png", "1.png", "2.png")}
    clean()
    assert len(kept) == 7 * len(places)
    assert all(path.exists() for path in kept)
    assert not Path("artifacts/heads/t3.safetensors").exists()


def test_new_images_are_noticed_and_links_refused_by_the_real_dvc(repository: Repository) -> None:
    """DVC hashes the targets of links to files. It does not follow links to folders, so they are refused."""
    store = repository.path.parent / "store"
    write(store)
    write(repository.path / "images", classes=("dog",))
    (repository.path / "images/cat").mkdir()
    for index in range(3):
        (repository.path / f"images/cat/{index}.png").symlink_to(store / f"cat/{index}.png")
    set_params(repository.path / "params.yaml", dataset="image_folder")
    assert ran(repository.dvc("repro", "download")) == ["download"]
    assert ran(repository.dvc("repro", "download")) == []
    Image.new("RGB", (8, 8), "white").save(store / "cat/0.png")
    assert ran(repository.dvc("repro", "download")) == ["download"]
    (repository.path / "images/cat/Thumbs.db").write_bytes(b"thumbs")
    assert ran(repository.dvc("repro", "download")) == []
    (repository.path / "images/cat/more").symlink_to(store / "cat")
    write(repository.path / "images", 4, ("dog",))
    output = repository.dvc("repro", "download", fails=True)
    assert "error: images/cat/more is a link to a folder" in output


def test_dvc_does_not_see_an_editor_s_lock(project: Path) -> None:
    (project / "pipeline").mkdir()
    (project / "pipeline/a.py").touch()
    (project / "pipeline/.#a.py").symlink_to("somebody@machine.4711:1")  # DVC fails at a link to nothing
    seen = DvcIgnoreFilter(localfs, str(project)).find(localfs, str(project / "pipeline"))
    assert list(seen) == [str(project / "pipeline/a.py")]
