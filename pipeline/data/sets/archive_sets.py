"""Data sets that torchvision lacks: ImageNet-R, CUB-200-2011 and Tiny-ImageNet, from their authors' archives."""

import re
from pathlib import Path

from pipeline.data.archives import unpack
from pipeline.data.fetch import fetch
from pipeline.data.hub import HubFile
from pipeline.data.image_set import ImageSet
from pipeline.data.remote import Remote
from pipeline.data.sets.image_folder import Files, class_files, image_set, stratified_split
from pipeline.errors import UserError

IMAGENET_R = Remote(
    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    "a61312130a589d0ca1a8fca1f2bd3337",
    2190,
    hub=HubFile("axiong/imagenet-r", "imagenet-r.tar", "3df56fda69a6eed3e808373909a64f4a665b1e8f"),
)
CUB200 = Remote(
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78", 1151
)
TINY_IMAGENET = Remote("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", 248)

REMOTES = {"imagenet_r": [IMAGENET_R], "cub200": [CUB200], "tiny_imagenet": [TINY_IMAGENET]}


def load_imagenet_r(scratch: Path) -> ImageSet:
    """ImageNet-R (Hendrycks et al. 2021): 30,000 renditions of 200 classes, without an official split.

    About a fifth of each class is for testing, always the same images: their content decides. (The authors of arXiv
    2308.09610 split at random, not by class.)
    """
    unpack(fetch(IMAGENET_R, "imagenet_r"), scratch)
    root = scratch / "imagenet-r"
    readme = read_lines(root / "README.txt") if (root / "README.txt").exists() else []
    names = dict(line.split(" ", 1) for line in readme if re.match(r"n\d{8} ", line))
    return image_set(*(renamed(split, names) for split in stratified_split(class_files(root))), as_given=True)


def load_cub200(scratch: Path) -> ImageSet:
    """CUB-200-2011 (Wah et al. 2011): 11,788 birds of 200 species, in the official split."""
    unpack(fetch(CUB200, "cub200"), scratch)
    root = scratch / "CUB_200_2011"
    is_training = dict(line.split() for line in read_lines(root / "train_test_split.txt"))
    splits: dict[str, Files] = {"1": {}, "0": {}}
    for line in read_lines(root / "images.txt"):
        number, path = line.split()
        species = path.split("/")[0].partition(".")[2].replace("_", " ")
        splits[is_training[number]].setdefault(species, []).append(root / "images" / path)
    return image_set(splits["1"], splits["0"], as_given=True)


def load_tiny_imagenet(scratch: Path) -> ImageSet:
    """Tiny-ImageNet (Le and Yang 2015): 200 classes at 64 pixels. Its validation images are used for testing."""
    unpack(fetch(TINY_IMAGENET, "tiny_imagenet"), scratch)
    root = scratch / "tiny-imagenet-200"
    words = dict(line.split("\t", 1) for line in read_lines(root / "words.txt"))
    names = {wnid: words.get(wnid, wnid).split(",")[0] for wnid in sorted(read_lines(root / "wnids.txt"))}
    train = {wnid: sorted((root / "train" / wnid / "images").iterdir()) for wnid in names}
    test: Files = {wnid: [] for wnid in names}
    for line in read_lines(root / "val/val_annotations.txt"):
        file, wnid = line.split("\t")[:2]
        test[wnid].append(root / "val/images" / file)
    return image_set(renamed(train, names), renamed(test, names), as_given=True)


def renamed(files: Files, names: dict[str, str]) -> Files:
    """Classes under their names in words. Two of the same name (crane, bird and machine) have their numbers added."""
    spoken = [names.get(wnid, wnid) for wnid in files]
    unique = [name if spoken.count(name) == 1 else f"{name} ({wnid})" for wnid, name in zip(files, spoken, strict=True)]
    return dict(zip(unique, files.values(), strict=True))


def read_lines(file: Path) -> list[str]:
    """The lines of a file of an archive. Raises UserError if the archive lacks it."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise UserError(f"the archive of this data set holds no {file.name}: delete it in downloads/") from None
