"""More data sets that the field reports, from their authors' archives or from those of LAMDA-PILOT.

Some publishers give no checksum; the entry then says None, and the first MD5 seen here is kept beside the file
(pipeline.data.fetch). Files on drives that only a browser opens are placed by hand.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scipy.io import loadmat

from pipeline.data.archives import unpack
from pipeline.data.fetch import fetch
from pipeline.data.image_listing import list_folders
from pipeline.data.image_set import ImageSet
from pipeline.data.remote import Remote
from pipeline.data.sets.archive_sets import read_lines, renamed
from pipeline.data.sets.domain_folder import domain_set, split_domains
from pipeline.data.sets.image_folder import Files, class_files, image_set, stratified_split
from pipeline.errors import UserError, is_refusal

_DRIVE = "https://drive.google.com/file/d/{}/view"
_DOMAINNET = "http://csr.bu.edu/ftp/visda/2019/multi-source/"
DOMAINNET_DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")  # in the published order
_CLEANED = ("clipart", "painting")  # their authors publish a corrected archive
# Run 0 of the scenario NI of CORe50's authors, whose order S-Prompts (NeurIPS 2022) and later work use.
CORE50_TRAIN = ("s11", "s4", "s2", "s9", "s1", "s6", "s5", "s8")
CORE50_TEST = ("s3", "s7", "s10")


_CORE50 = Remote("http://bias.csr.unibo.it/maltoni/download/core50/core50_128x128.zip", None)


def _by_hand(number: str, file: str) -> list[Remote]:
    return [Remote(_DRIVE.format(number), None, file=file, by_hand=True)]


REMOTES: dict[str, list[Remote]] = {
    "imagenet_a": [
        Remote("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar", "c3e55429088dc681f30d81f4726b6595", 688)
    ],
    "stanford_cars": [
        Remote("http://ai.stanford.edu/~jkrause/cars/car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14", 1956),
        Remote("http://ai.stanford.edu/~jkrause/cars/cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc", 0.2),
    ],
    "objectnet": [
        Remote(
            "https://entuedu-my.sharepoint.com/:u:/g/personal/n2207876b_e_ntu_edu_sg/"
            "EZFv9uaaO1hBj7Y40KoCvYkBnuUZHnHnjMda6obiDpiIWw?e=4n8Kpy",
            None,
            file="objectnet.zip",
            by_hand=True,
        )
    ],
    "omnibenchmark": _by_hand("1AbCP3zBMtv_TDXJypOCnOgX8hJmvJm3u", "omnibenchmark.zip"),
    "vtab": _by_hand("1xUiwlnx4k0oDhYi26KL5KwrCAya-mvJ_", "vtab.zip"),
    "domainnet": [
        remote
        for domain in DOMAINNET_DOMAINS
        for remote in (
            Remote(f"{_DOMAINNET}{'groundtruth/' if domain in _CLEANED else ''}{domain}.zip", None),
            *(Remote(f"{_DOMAINNET}domainnet/txt/{domain}_{side}.txt", None) for side in ("train", "test")),
        )
    ],
    "core50": [_CORE50],
    "office_home": _by_hand("0B81rNlvomiwed0V1YUxQdC1uOTg", "OfficeHomeDataset_10072016.zip"),
    "pacs": _by_hand("1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd", "PACS.zip"),
}


def _unpacked(name: str, scratch: Path) -> Path:
    for remote in REMOTES[name]:
        unpack(fetch(remote, name), scratch)
    return scratch


def load_imagenet_a(scratch: Path) -> ImageSet:
    """ImageNet-A (Hendrycks et al. 2021): 7,500 natural adversarial images of 200 classes, without an official split.

    About a fifth of each class is for testing. The split of LAMDA-PILOT is another; a list in lists/splits restores it.
    """
    root = _folder(_unpacked("imagenet_a", scratch), "imagenet-a")
    readme = read_lines(root / "README.txt") if (root / "README.txt").exists() else []
    names = dict(line.split(" ", 1) for line in readme if re.match(r"n\d{8} ", line))
    return image_set(*(renamed(split, names) for split in stratified_split(class_files(root))), as_given=True)


def load_stanford_cars(scratch: Path) -> ImageSet:
    """Stanford Cars (Krause et al. 2013): 16,185 cars of 196 models, in the official split."""
    annotations = _unpacked("stanford_cars", scratch) / "cars_annos.mat"
    try:
        content = loadmat(annotations, squeeze_me=True)
        names = [str(name) for name in content["class_names"]]
        rows = [(str(row[0]), int(row[5]) - 1, bool(row[6])) for row in content["annotations"]]
        splits: tuple[Files, Files] = ({name: [] for name in names}, {name: [] for name in names})
        for file, number, is_test in rows:
            splits[is_test][names[number]].append(scratch / file)
    except (OSError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        if is_refusal(error):
            raise  # not the file's fault
        raise UserError(
            f"downloads/stanford_cars holds no annotations of it ({error}): delete cars_annos.mat"
        ) from None
    return image_set(*splits, as_given=True)


def load_pilot(name: str, scratch: Path) -> ImageSet:
    """A subset that LAMDA-PILOT publishes, with its split: train/CLASS/* and test/CLASS/* in a folder."""
    root = _unpacked(name, scratch)
    halves = sorted(
        (path.parent for path in root.rglob("train") if (path.parent / "test").is_dir()), key=lambda p: len(p.parts)
    )
    if not halves:
        raise UserError(f"the archive of {name} holds no folder with train and test: delete it in downloads/")
    return image_set(class_files(halves[0] / "train"), class_files(halves[0] / "test"), as_given=True)


def load_vtab(scratch: Path) -> ImageSet:
    """VTAB in its five-task form (Zhou et al. 2024): 50 classes, ten each of five data sets, one after another.

    The order of the folders is that of the data sets, so each ten classes are a group; `class_order: natural` and
    `classes_per_task: 10` are the published tasks.
    """
    images = load_pilot("vtab", scratch)
    return replace(images, groups=[f"data set {number // 10 + 1}" for number in range(len(images.classes))])


def load_domainnet(scratch: Path) -> ImageSet:
    """DomainNet (Peng et al. 2019), the corrected version: 345 classes in six domains, in the official split."""
    root = _unpacked("domainnet", scratch)
    splits: list[dict[str, Files]] = []
    for side in ("train", "test"):
        domains: dict[str, Files] = {}
        for domain in DOMAINNET_DOMAINS:
            files = domains.setdefault(domain, {})
            for line in read_lines(root / f"{domain}_{side}.txt"):
                path = line.rpartition(" ")[0]
                if path.count("/") != 2:
                    raise UserError(f"{domain}_{side}.txt of domainnet: {line!r} is not DOMAIN/CLASS/FILE and a number")
                files.setdefault(path.split("/")[1], []).append(root / path)
        splits.append(domains)
    return domain_set(*splits)


def load_office_home(scratch: Path) -> ImageSet:
    """Office-Home (Venkateswara et al. 2017): 65 classes in four domains; about a fifth of each cell is for testing."""
    root = _folder(_unpacked("office_home", scratch), "Art").parent
    return split_domains(
        {name: class_files(_folder(root, name)) for name in ("Art", "Clipart", "Product", "Real World")}
    )


def load_pacs(scratch: Path) -> ImageSet:
    """PACS (Li et al. 2017): 7 classes in four domains; about a fifth of each cell is for testing."""
    root = _folder(_unpacked("pacs", scratch), "art_painting").parent
    return split_domains(
        {name: class_files(_folder(root, name)) for name in ("photo", "art_painting", "cartoon", "sketch")}
    )


def load_core50(scratch: Path) -> ImageSet:
    """CORe50 (Lomonaco and Maltoni 2017): 50 objects, as published: 8 sessions for training, 3 others for testing.

    With `setting: domain` each training session is a task, in the published order. Sessions 3, 7 and 10 are no task's:
    all their images count after every step.
    """
    sessions = _core50(scratch)
    train = {session: sessions[session] for session in CORE50_TRAIN if session in sessions}
    return domain_set(train, shared_test=[sessions[session] for session in CORE50_TEST if session in sessions])


def load_core50_sessions(scratch: Path) -> ImageSet:
    """CORe50 with all its eleven sessions as domains: the last fifth of each sequence of frames is for testing.

    This says how much is forgotten of each session. No published number is measured so.
    """
    train: dict[str, Files] = {}
    test: dict[str, Files] = {}
    for session, files in _core50(scratch).items():
        for name, paths in files.items():
            border = len(paths) - max(1, len(paths) // 5)
            train.setdefault(session, {})[name] = paths[:border]
            test.setdefault(session, {})[name] = paths[border:]
    return domain_set(train, test)


def _core50(scratch: Path) -> dict[str, Files]:
    unpack(fetch(_CORE50, "core50"), scratch)
    root = _folder(scratch, "core50_128x128")
    numbers = sorted(int(path.name[1:]) for path in list_folders(root) if re.fullmatch(r"s\d+", path.name))
    if not numbers:
        raise UserError("the archive of core50 holds no sessions s1, s2, ...: delete it in downloads/")
    return {f"s{number}": class_files(root / f"s{number}") for number in numbers}


def _folder(root: Path, name: str) -> Path:
    """The folder of this name in an unpacked archive. Raises UserError if there is none."""
    found = sorted((path for path in root.rglob(name) if path.is_dir()), key=lambda path: len(path.parts))
    if not found:
        raise UserError(f"the archive of this data set holds no folder {name}: delete it in downloads/")
    return found[0]


LOADERS: dict[str, Callable[[Path], ImageSet]] = {
    "imagenet_a": load_imagenet_a,
    "stanford_cars": load_stanford_cars,
    "objectnet": lambda scratch: load_pilot("objectnet", scratch),
    "omnibenchmark": lambda scratch: load_pilot("omnibenchmark", scratch),
    "vtab": load_vtab,
    "domainnet": load_domainnet,
    "core50": load_core50,
    "core50_sessions": load_core50_sessions,
    "office_home": load_office_home,
    "pacs": load_pacs,
}
WITH_DOMAINS = ("domainnet", "core50", "core50_sessions", "office_home", "pacs")
