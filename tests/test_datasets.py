"""Every downloadable data set, read from a small archive in its authors' layout."""

from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest
import torch

from harness.small_archives import FILES, FIVE, SHARED, SVHN, cifar10_members, cifar_members, png, tar, zipped
from pipeline.data.datasets import DATASETS, fetch_dataset, missing_files
from pipeline.data.image_set import ImageSet
from pipeline.data.packing import are_arrays, stored
from pipeline.data.remote import Remote
from pipeline.data.sets import archive_sets, field_sets, five_datasets, torchvision_sets  # before torchvision
from pipeline.errors import UserError

from torchvision import datasets  # isort: skip

EXPECTED = {  # classes, training images per class, test images per class
    "cifar100": (["apple", "baby", "crab"], [1, 1, 1], [1, 1, 1]),
    "cifar10": (["airplane", "automobile"], [5] * 10, [1] * 10),
    "mnist": (["0 - zero", "1 - one"], [1] * 10, [1] * 10),
    "fashion_mnist": (["T-shirt/top", "Trouser"], [1] * 10, [1] * 10),
    "not_mnist": (["A", "B"], [3] * 10, [2] * 10),
    "five_datasets": (
        ["svhn 0", "svhn 1"],
        [1, 1, 2] + [1] * 17 + [5] * 10 + [3] * 10 + [1] * 10,
        [1, 1, 2] + [1] * 27 + [2] * 10 + [1] * 10,
    ),
    "svhn": (["0", "1"], [1, 1, 2, 1, 1, 1, 1, 1, 1, 1], [1, 1, 2, 1, 1, 1, 1, 1, 1, 1]),
    "flowers102": ([], [2, 2], [1, 1]),
    "food101": (["pie", "soup"], [2, 1], [1, 1]),
    "dtd": (["dotted", "woven"], [2, 2], [1, 1]),
    "eurosat": (["Forest", "River"], [4, 4], [1, 1]),
    "imagenet_r": (["goldfish", "great_white_shark"], [4, 4], [1, 1]),
    "cub200": (["Black footed Albatross", "Laysan Albatross"], [1, 1], [1, 1]),
    "tiny_imagenet": (["crane (n2)", "crane (n3)"], [3, 3], [1, 1]),
    "imagenet_a": (["stingray", "goldfinch"], [4, 4], [1, 1]),
    "stanford_cars": (["AM General Hummer", "Acura RL"], [1, 1], [1, 1]),
    "objectnet": (["n1", "n2"], [2, 2], [1, 1]),
    "omnibenchmark": (["n1", "n2"], [2, 2], [1, 1]),
    "vtab": (["c00", "c01"], [2] * 12, [1] * 12),
    "domainnet": (["ant", "bee"], [12, 12], [6, 6]),
    "core50": (["o1", "o2"], [40, 40], [15, 15]),
    "core50_sessions": (["o1", "o2"], [44, 44], [11, 11]),
    "office_home": (["Bed", "Pen"], [16, 16], [4, 4]),
    "pacs": (["dog", "house"], [16, 16], [4, 4]),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, bytes], None]:
    """Put a file where `fetch` would, and replace torchvision's checksums by those of this file."""
    downloads = tmp_path / "downloads"

    def fetch(remote: Remote, dataset: str) -> Path:
        assert remote.url.startswith("http")
        assert remote.md5 is None or len(remote.md5) == 32
        return downloads / dataset / remote.name

    for module in (torchvision_sets, archive_sets, field_sets, five_datasets):
        monkeypatch.setattr(module, "fetch", fetch)
    sums = {name.rpartition("/")[2]: md5(content).hexdigest() for name, content in cifar_members().items()}
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": sums["meta"]})
    sums = {name.rpartition("/")[2]: md5(content).hexdigest() for name, content in cifar10_members().items()}
    monkeypatch.setattr(
        datasets.CIFAR10, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)]
    )
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": sums["batches.meta"]})
    lists = {split: [*row[:2], md5(SVHN).hexdigest()] for split, row in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    flowers = {
        part: (name, md5(FILES["flowers102"][name]).hexdigest())
        for part, (name, _) in datasets.Flowers102._file_dict.items()
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", flowers)

    def put(dataset: str, name: str, content: bytes) -> None:
        (downloads / dataset).mkdir(parents=True, exist_ok=True)
        (downloads / dataset / name).write_bytes(content)

    return put


def place_all(name: str, place: Callable[[str, str, bytes], None]) -> None:
    """Put every file that a data set reads."""
    for part in SHARED.get(name, (name,)):
        for file, content in FILES[part].items():
            place(part, file, content)


def loaded(name: str, scratch: Path) -> ImageSet:
    scratch.mkdir(exist_ok=True)
    return fetch_dataset(name, data_dir=Path("none"), scratch=scratch)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_missing_is_named_with_source_size_and_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    files = [tmp_path / "downloads" / part / file for part in SHARED.get(name, (name,)) for file in FILES[part]]
    assert {file.place for file in missing_files(name)} == set(map(str, files))
    assert all(file.url.startswith("http") for file in missing_files(name))
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    assert missing_files(name) == []


def test_nothing_is_missing_of_what_is_made_or_found_here() -> None:
    assert missing_files("glyphs") == missing_files("image_folder") == []
    with pytest.raises(UserError, match="dataset 'cifar' is unknown"):
        missing_files("cifar")


def test_every_data_set_that_is_downloaded_is_tested() -> None:
    assert set(FILES) | set(SHARED) == set(EXPECTED) == set(DATASETS) - {"glyphs"}


@pytest.mark.parametrize("name", EXPECTED)
def test_arrives_as_published(name: str, place: Callable[[str, str, bytes], None], tmp_path: Path) -> None:
    place_all(name, place)
    images = loaded(name, tmp_path / "scratch")
    classes, train, test = EXPECTED[name]
    assert images.classes[: len(classes)] == classes
    assert len(images.groups) == len(images.classes)
    assert images.train_labels.bincount().tolist() == train
    assert images.test_labels.bincount().tolist() == test
    arrays = are_arrays(images.train_images, images.test_images)
    packed = list(stored(images.train_images, arrays=arrays))
    assert len(packed) == len(images.train_labels)
    assert arrays == (name in (*FIVE, "five_datasets", "cifar100", "tiny_imagenet"))


def test_five_datasets_are_five_groups_of_ten_classes_one_after_another(
    place: Callable[[str, str, bytes], None], tmp_path: Path
) -> None:
    place_all("five_datasets", place)
    images = loaded("five_datasets", tmp_path / "scratch")
    assert images.groups == [name for name in FIVE for _ in range(10)]
    assert images.classes[::10] == [
        "svhn 0",
        "mnist 0 - zero",
        "cifar10 airplane",
        "not_mnist A",
        "fashion_mnist T-shirt/top",
    ]
    pixels = images.train_images
    assert isinstance(pixels, torch.Tensor)
    assert pixels.shape[1:] == (32, 32, 3)
    first_digit = pixels[images.train_labels == 10][0]
    assert int(first_digit[:2].sum() + first_digit[-2:].sum() + first_digit[:, :2].sum()) == 0
    assert first_digit[2, 2:30].tolist() == [[n, n, n] for n in range(28)], "28 pixels, with a border of two"
    letters = pixels[images.train_labels == 30]
    assert letters[:, 16, 16, 0].tolist() == [1, 11, 21]
    assert list(images.notes) == ["not_mnist: left out 1 files of Train/F, which are no images"]


@pytest.mark.parametrize("size", [16, 40])
def test_letters_of_another_size_are_named(size: int, place: Callable[[str, str, bytes], None], tmp_path: Path) -> None:
    place_all("five_datasets", place)
    other = {f"notMNIST/{split}/A/a{n}.png": png(n, size) for split in ("Train", "Test") for n in (1, 2)}
    place("not_mnist", "notMNIST.zip", zipped(other))
    with pytest.raises(
        UserError, match=rf"not_mnist holds images of {size} x {size} pixels, and 5-Datasets has 32 or 28"
    ):
        loaded("five_datasets", tmp_path / "scratch")


@pytest.mark.parametrize(
    ("name", "domains"),
    [("domainnet", 6), ("core50_sessions", 11), ("office_home", 4), ("pacs", 4)],
)
def test_domains_are_those_of_the_data_set(
    name: str, domains: int, place: Callable[[str, str, bytes], None], tmp_path: Path
) -> None:
    place_all(name, place)
    (tmp_path / "scratch").mkdir()
    images = fetch_dataset(name, data_dir=Path("none"), scratch=tmp_path / "scratch", domains=True)
    assert len(images.domains) == domains
    assert images.train_domains is not None
    assert images.test_domains is not None
    for of in (images.train_domains, images.test_domains):
        assert len(of.unique()) == domains
    for path, domain in zip(images.train_images, images.train_domains.tolist(), strict=True):
        assert path.parts[-3] == images.domains[domain]


def test_core50_as_published_trains_eight_sessions_and_tests_on_three_others(
    place: Callable[[str, str, bytes], None], tmp_path: Path
) -> None:
    place_all("core50", place)
    (tmp_path / "scratch").mkdir()
    images = fetch_dataset("core50", data_dir=Path("none"), scratch=tmp_path / "scratch", domains=True)
    assert images.domains == ["s11", "s4", "s2", "s9", "s1", "s6", "s5", "s8"]
    assert images.test_domains is None
    assert {path.parts[-3] for path in images.test_images} == {"s3", "s7", "s10"}
    assert images.train_domains is not None
    for path, domain in zip(images.train_images, images.train_domains.tolist(), strict=True):
        assert path.parts[-3] == images.domains[domain]
    assert images.train_domains.bincount().tolist() == [10] * 8


def test_the_classes_of_vtab_are_grouped_by_data_set(place: Callable[[str, str, bytes], None], tmp_path: Path) -> None:
    place("vtab", "vtab.zip", FILES["vtab"]["vtab.zip"])
    assert loaded("vtab", tmp_path / "scratch").groups == ["data set 1"] * 10 + ["data set 2"] * 2


def test_values_of_the_first_pixels(place: Callable[[str, str, bytes], None], tmp_path: Path) -> None:
    for name in ("cifar100", "fashion_mnist", "svhn"):
        for file, content in FILES[name].items():
            place(name, file, content)
    first = {}
    for name in ("cifar100", "fashion_mnist", "svhn"):
        images = loaded(name, tmp_path / name).train_images
        assert isinstance(images, torch.Tensor)
        first[name] = images[0, 0, 1].tolist()
    assert first == {
        "cifar100": [1, 1, 1],
        "fashion_mnist": [1, 1, 1],
        "svhn": [5, 5, 5],
    }  # cifar: 1, 1025, 2049 mod 256


@pytest.mark.parametrize("name", FILES)
def test_an_archive_of_something_else_is_named(
    name: str, place: Callable[[str, str, bytes], None], tmp_path: Path
) -> None:
    for file in FILES[name]:
        place(name, file, tar({"readme": b"nothing here"}))
    with pytest.raises(UserError) as raised:
        loaded(name, tmp_path / "scratch")
    assert "\n" not in str(raised.value)
