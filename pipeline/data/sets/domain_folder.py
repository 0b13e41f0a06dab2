"""Images in folders of domains: DOMAIN/CLASS/*, the layout of PACS, DomainNet, Office-Home and CORe50.

With train/DOMAIN/CLASS/* and test/DOMAIN/CLASS/*, these folders say which images are for testing. Otherwise about
a fifth of each class of each domain is, by the bytes of each file (data.held_out).
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from pipeline.data.image_listing import class_name, list_folders, no_link
from pipeline.data.image_set import ImageSet
from pipeline.data.sets.image_folder import Files, find_classes, stratified_split
from pipeline.errors import UserError

Domains = Mapping[str, Files]  # domain -> class -> its images

_EXPECTED = "expected DOMAIN/CLASS/*, or train/DOMAIN/CLASS/* and test/DOMAIN/CLASS/*, in data_dir"


def load_domain_folder(folder: Path) -> ImageSet:
    """Load the folder. Raises UserError if it has no folders of domains, or a domain has no class folders."""
    train, test = (folder / name for name in ("train", "test"))
    notes: list[str] = []
    if train.is_dir() and test.is_dir():
        return domain_set(_domains(train, notes), _domains(test, notes), notes=notes)
    return split_domains(_domains(folder, notes), notes=notes)


def _domains(folder: Path, notes: list[str]) -> dict[str, Files]:
    folders = [no_link(path) for path in list_folders(folder)]
    if not folders:
        raise UserError(f"{folder} has no folders of domains: {_EXPECTED}")
    found: dict[str, Files] = {}
    for path in folders:
        if not list_folders(path):
            raise UserError(f"{path} has no class folders: {_EXPECTED}")
        classes = find_classes(path)
        found[class_name(path)] = classes.files
        notes += classes.notes
    return found


def split_domains(domains: Domains, *, notes: list[str] | None = None) -> ImageSet:
    """A data set of domains in which about a fifth of each class of each domain is for testing."""
    both = {
        name: stratified_split({of: paths for of, paths in files.items() if paths}) for name, files in domains.items()
    }
    train, test = ({name: halves[side] for name, halves in both.items()} for side in (0, 1))
    return domain_set(train, test, notes=notes)


def domain_set(train: Domains, test: Domains, *, notes: list[str] | None = None) -> ImageSet:
    """A data set of domains in this order. Classes come by name, and have one number in all domains."""
    domains = list(dict.fromkeys([*train, *test]))
    classes = sorted({name for split in (train, test) for files in split.values() for name in files})
    numbers = {name: number for number, name in enumerate(classes)}
    listed = []
    for split in (train, test):
        rows = [
            (path, numbers[name], number)
            for number, domain in enumerate(domains)
            for name, paths in split.get(domain, {}).items()
            for path in paths
        ]
        labels, of_domains = (torch.tensor([row[at] for row in rows], dtype=torch.int64) for at in (1, 2))
        listed.append(([row[0] for row in rows], labels, of_domains))
    (train_images, train_labels, train_domains), (test_images, test_labels, test_domains) = listed
    return ImageSet(
        classes,
        [""] * len(classes),
        train_images,
        train_labels,
        test_images,
        test_labels,
        notes or (),
        domains,
        train_domains,
        test_domains,
    )
