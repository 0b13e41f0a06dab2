"""Every downloadable data set, read from a small archive in its authors' layout; and bad archives."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from pipeline.data.archives import unpack
from pipeline.data.datasets import DATASETS, fetch_dataset, missing_files
from pipeline.data.fetch import Remote
from pipeline.data.image_set import ImageSet
from pipeline.data.packing import are_arrays, stored
from pipeline.data.sets import archive_sets, field_sets, five_datasets, torchvision_sets  # before torchvision
from pipeline.errors import UserError

from torchvision import datasets  # isort: skip

Members = Mapping[str, bytes]
PIXELS = np.arange(3 * 3072, dtype=np.int64).astype(np.uint8).reshape(3, 3072)


def jpeg(value: int = 0, size: int = 70) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(content, "JPEG")
    return content.getvalue()


def tar(members: Members) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zipped(members: Members) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def mat(**arrays: object) -> bytes:
    content = io.BytesIO()
    savemat(content, arrays)
    return content.getvalue()


def idx(magic: bytes, array: np.ndarray) -> bytes:
    """The format of MNIST."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(magic + sizes + array.astype(np.uint8).tobytes())


def cifar_members() -> dict[str, bytes]:
    split = pickle.dumps({"data": PIXELS, "fine_labels": [2, 0, 1]})
    meta = pickle.dumps({"fine_label_names": ["apple", "baby", "crab"]})
    return {f"cifar-100-python/{name}": data for name, data in (("train", split), ("test", split), ("meta", meta))}


def cifar10_members() -> dict[str, bytes]:
    split = pickle.dumps({"data": PIXELS[[0, 1] * 5], "labels": list(range(10))})
    meta = pickle.dumps({"label_names": ["airplane", "automobile", *"cdefghij"]})
    parts = [f"data_batch_{number}" for number in range(1, 6)]
    return {f"cifar-10-batches-py/{name}": split for name in (*parts, "test_batch")} | {
        "cifar-10-batches-py/batches.meta": meta
    }


def png(value: int, size: int = 28) -> bytes:
    content = io.BytesIO()
    Image.new("L", (size, size), value).save(content, "PNG")
    return content.getvalue()


def folder(root: str, classes: list[str], count: int) -> dict[str, bytes]:
    return {f"{root}/{name}/{name}_{i}.jpg": jpeg(i) for name in classes for i in range(count)}


IDX_IMAGES = idx(b"\0\0\x08\x03", np.arange(10 * 28 * 28).reshape(10, 28, 28))
IDX_LABELS = idx(b"\0\0\x08\x01", np.arange(10))
SVHN = mat(X=np.full((32, 32, 3, 11), 5, np.uint8), y=np.arange(1, 12)[:, None] % 10 + 1)

TWELVE = [f"c{number:02d}" for number in range(12)]
CAR_ROWS = np.array(
    [[(f"car_ims/{i:06d}.jpg", 1, 2, 3, 4, 1 + (i > 2), i % 2) for i in range(1, 5)]],
    dtype=[
        (name, object) for name in ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    ],
)


def pilot(root: str, classes: list[str]) -> dict[str, bytes]:
    return folder(f"{root}/train", classes, 2) | folder(f"{root}/test", classes, 1)


FILES: dict[str, dict[str, bytes]] = {
    "cifar100": {"cifar-100-python.tar.gz": tar(cifar_members())},
    "cifar10": {"cifar-10-python.tar.gz": tar(cifar10_members())},
    **{
        name: {
            f"{split}-{kind}.gz": content
            for split in ("train", "t10k")
            for kind, content in (("images-idx3-ubyte", IDX_IMAGES), ("labels-idx1-ubyte", IDX_LABELS))
        }
        for name in ("mnist", "fashion_mnist")
    },
    "not_mnist": {
        "notMNIST.zip": zipped(
            {
                f"notMNIST/{split}/{letter}/{letter}{number}.png": png(10 * number + 1)
                for split, count in (("Train", 3), ("Test", 2))
                for letter in "ABCDEFGHIJ"
                for number in range(count)
            }
            | {"notMNIST/Train/F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png": b""}
        )
    },
    "svhn": {"train_32x32.mat": SVHN, "test_32x32.mat": SVHN},
    "flowers102": {
        "102flowers.tgz": tar({f"jpg/image_{i:05d}.jpg": jpeg(i) for i in range(1, 7)}),
        "imagelabels.mat": mat(labels=[[1, 1, 1, 2, 2, 2]]),
        "setid.mat": mat(trnid=[[1, 4]], valid=[[2, 5]], tstid=[[3, 6]]),
    },
    "food101": {
        "food-101.tar.gz": tar(
            folder("food-101/images", ["pie", "soup"], 3)
            | {
                "food-101/meta/train.json": b'{"pie": ["pie/pie_0", "pie/pie_1"], "soup": ["soup/soup_0"]}',
                "food-101/meta/test.json": b'{"pie": ["pie/pie_2"], "soup": ["soup/soup_1"]}',
            }
        )
    },
    "dtd": {
        "dtd-r1.0.1.tar.gz": tar(
            folder("dtd/images", ["dotted", "woven"], 3)
            | {
                f"dtd/labels/{split}1.txt": "".join(f"{c}/{c}_{i}.jpg\n" for c in ("dotted", "woven")).encode()
                for i, split in enumerate(("train", "val", "test"))
            }
        )
    },
    "eurosat": {"EuroSAT.zip": zipped(folder("2750", ["Forest", "River"], 5))},
    "imagenet_r": {
        "imagenet-r.tar": tar(
            folder("imagenet-r", ["n01443537", "n01484850"], 5)
            | {"imagenet-r/README.txt": b"WordNet IDs:\n\nn01443537 goldfish\nn01484850 great_white_shark\n"}
        )
    },
    "cub200": {
        "CUB_200_2011.tgz": tar(
            folder("CUB_200_2011/images", ["001.Black_footed_Albatross", "002.Laysan_Albatross"], 2)
            | {
                "CUB_200_2011/images.txt": b"1 001.Black_footed_Albatross/001.Black_footed_Albatross_0.jpg\n"
                b"2 001.Black_footed_Albatross/001.Black_footed_Albatross_1.jpg\n"
                b"3 002.Laysan_Albatross/002.Laysan_Albatross_0.jpg\n"
                b"4 002.Laysan_Albatross/002.Laysan_Albatross_1.jpg\n",
                "CUB_200_2011/train_test_split.txt": b"1 1\n2 0\n3 0\n4 1\n",
            }
        )
    },
    "tiny_imagenet": {
        "tiny-imagenet-200.zip": zipped(
            {f"tiny-imagenet-200/train/{n}/images/{n}_{i}.JPEG": jpeg(i, 64) for n in ("n2", "n3") for i in range(3)}
            | {f"tiny-imagenet-200/val/images/val_{i}.JPEG": jpeg(i, 64) for i in range(2)}
            | {
                "tiny-imagenet-200/wnids.txt": b"n3\nn2\n",
                "tiny-imagenet-200/words.txt": b"n1\tother\nn2\tcrane\nn3\tcrane, lifting device\n",
                "tiny-imagenet-200/val/val_annotations.txt": b"val_0.JPEG\tn2\t0\t0\nval_1.JPEG\tn3\t0\t0\n",
            }
        )
    },
    "imagenet_a": {
        "imagenet-a.tar": tar(
            folder("imagenet-a", ["n01498041", "n01531178"], 5)
            | {"imagenet-a/README.txt": b"WordNet IDs:\n\nn01498041 stingray\nn01531178 goldfinch\n"}
        )
    },
    "stanford_cars": {
        "car_ims.tgz": tar({f"car_ims/{i:06d}.jpg": jpeg(i) for i in range(1, 5)}),
        "cars_annos.mat": mat(
            annotations=CAR_ROWS, class_names=np.array(["AM General Hummer", "Acura RL"], dtype=object)
        ),
    },
    **{
        name: {f"{name}.zip": zipped(pilot(f"{name}/data", ["n1", "n2"] if name != "vtab" else TWELVE))}
        for name in ("objectnet", "omnibenchmark", "vtab")
    },
    "domainnet": {
        f"{domain}.{kind}": content
        for domain in field_sets.DOMAINNET_DOMAINS
        for kind, content in (("zip", zipped(folder(domain, ["ant", "bee"], 3))),)
    }
    | {
        f"{domain}_{side}.txt": "".join(
            f"{domain}/{c}/{c}_{i}.jpg {n}\n" for n, c in enumerate(("ant", "bee")) for i in ids
        ).encode()
        for domain in field_sets.DOMAINNET_DOMAINS
        for side, ids in (("train", (0, 1)), ("test", (2,)))
    },
    "core50": {
        "core50_128x128.zip": zipped(
            {k: v for s in range(1, 12) for k, v in folder(f"core50_128x128/s{s}", ["o1", "o2"], 5).items()}
        )
    },
    "office_home": {
        "OfficeHomeDataset_10072016.zip": zipped(
            {
                k: v
                for domain in ("Art", "Clipart", "Product", "Real World")
                for k, v in folder(f"OfficeHomeDataset_10072016/{domain}", ["Bed", "Pen"], 5).items()
            }
        )
    },
    "pacs": {
        "PACS.zip": zipped(
            {
                k: v
                for domain in ("photo", "art_painting", "cartoon", "sketch")
                for k, v in folder(f"kfold/{domain}", ["dog", "house"], 5).items()
            }
        )
    },
}
FIVE = ("svhn", "mnist", "cifar10", "not_mnist", "fashion_mnist")
SHARED = {"core50_sessions": ("core50",), "five_datasets": FIVE}  # data sets that read the files of others
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


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        archive.addfile(info)
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        hostile("../out"),
        hostile("inside/../../out"),
        hostile("link", tarfile.SYMTYPE, "/etc"),
        hostile("link", tarfile.SYMTYPE, "../out"),
        hostile("link", tarfile.LNKTYPE, "../out"),
        hostile("device", tarfile.CHRTYPE),
        hostile("pipe", tarfile.FIFOTYPE),
        tar(cifar_members())[:200],
        gzip.compress(b"x" * 9999)[:-9],
    ],
    ids=[
        "parent",
        "parent-of-inside",
        "link-absolute",
        "link-parent",
        "hard-link",
        "device",
        "pipe",
        "cut-tar",
        "cut-gz",
    ],
)
def test_hostile_and_broken_archives_are_refused(content: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "archive.gz"
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"archive.gz cannot be unpacked .*: delete it"):
        unpack(archive, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"archive.gz", "folder"}


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_a_path_out_of_the_folder_stays_inside(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({name: b"x"}))
    (tmp_path / "a.tar").write_bytes(hostile("/out"))
    for archive in ("a.zip", "a.tar"):
        unpack(tmp_path / archive, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "a.tar", "folder"}
    assert not Path("/out").exists()
