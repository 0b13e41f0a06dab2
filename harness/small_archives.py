"""A small archive of every downloadable data set, in its authors' layout."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy.io import savemat

from pipeline.data.sets import field_sets

Members = Mapping[str, bytes]
PIXELS = np.arange(3 * 3072, dtype=np.int64).astype(np.uint8).reshape(3, 3072)


def jpeg(value: int = 0, size: int = 70) -> bytes:
    """A grey JPEG."""
    content = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(content, "JPEG")
    return content.getvalue()


def tar(members: Members) -> bytes:
    """A packed tar of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zipped(members: Members) -> bytes:
    """A zip of these files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def mat(**arrays: object) -> bytes:
    """A file of MATLAB's."""
    content = io.BytesIO()
    savemat(content, arrays)
    return content.getvalue()


def idx(magic: bytes, array: np.ndarray) -> bytes:
    """The format of MNIST."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(magic + sizes + array.astype(np.uint8).tobytes())


def cifar_members() -> dict[str, bytes]:
    """The files of CIFAR-100."""
    split = pickle.dumps({"data": PIXELS, "fine_labels": [2, 0, 1]})
    meta = pickle.dumps({"fine_label_names": ["apple", "baby", "crab"]})
    return {f"cifar-100-python/{name}": data for name, data in (("train", split), ("test", split), ("meta", meta))}


def cifar10_members() -> dict[str, bytes]:
    """The files of CIFAR-10."""
    split = pickle.dumps({"data": PIXELS[[0, 1] * 5], "labels": list(range(10))})
    meta = pickle.dumps({"label_names": ["airplane", "automobile", *"cdefghij"]})
    parts = [f"data_batch_{number}" for number in range(1, 6)]
    return {f"cifar-10-batches-py/{name}": split for name in (*parts, "test_batch")} | {
        "cifar-10-batches-py/batches.meta": meta
    }


def png(value: int, size: int = 28) -> bytes:
    """A grey PNG."""
    content = io.BytesIO()
    Image.new("L", (size, size), value).save(content, "PNG")
    return content.getvalue()


def folder(root: str, classes: list[str], count: int) -> dict[str, bytes]:
    """Some images per class."""
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
    """Folders as the PILOT repository's archives have them."""
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
