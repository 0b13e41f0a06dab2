"""Images in folders of domains: DOMAIN/CLASS/*, the layout of PACS, DomainNet, Office-Home and CORe50.

With train/DOMAIN/CLASS/* and test/DOMAIN/CLASS/*, these folders say which images are for testing. With test/CLASS/*,
the test images are of domains that no task trains, and count after every step. The two folders may be spelled as in a
folder of classes (data.sets.image_folder). Otherwise about a fifth of each class of each domain is for testing, by the
bytes of each file (data.held_out).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pipeline.data.image_listing import class_name, list_folders, no_link
from pipeline.data.image_set import ImageSet
from pipeline.data.sets.image_folder import Files, describe_splits, find_classes, find_splits, stratified_split
from pipeline.errors import UserError

Domains = Mapping[str, Files]  # domain -> class -> its images

_EXPECTED = "expected DOMAIN/CLASS/*, or train/DOMAIN/CLASS/* and test/DOMAIN/CLASS/* or test/CLASS/*, in data_dir"


def load_domain_folder(folder: Path) -> ImageSet:
    """Load the folder. Raises UserError if a split is missing, has no domains, or a domain has no class folders."""
    notes: list[str] = []
    splits = find_splits(folder, _EXPECTED)
    if splits is None:
        return split_domains(_domains(folder, notes), notes=notes)
    train, test = map(no_link, splits)
    domains = _domains(train, notes)
    if list_folders(test) and not any(list_folders(path) for path in list_folders(test)):
        classes = find_classes(test)
        notes += [*classes.notes, *describe_splits(folder, splits)]
        return domain_set(domains, shared_test=[classes.files], notes=notes)
    of_test = _domains(test, notes)
    return domain_set(domains, of_test, notes=[*notes, *describe_splits(folder, splits)])


def _domains(folder: Path, notes: list[str]) -> dict[str, Files]:
    folders = [no_link(path) for path in list_folders(folder)]
    if not folders:
        raise UserError(f"{folder} has no folders of domains: {_EXPECTED}")
    found: dict[str, Files] = {}
    for path in folders:
        if not list_folders(path):
            raise UserError(f"{path} has no class folders: {_EXPECTED}")
        splits = find_splits(path, _EXPECTED)
        if splits and list_folders(splits[0]):
            raise UserError(f"{path} holds {splits[0].name}/, whose folders would be no classes: {_EXPECTED}")
        classes = find_classes(path)
        into = found.setdefault(class_name(path), {})  # two folders may have one name, in two forms of Unicode
        for name, files in classes.files.items():
            into[name] = sorted([*into.get(name, []), *files])
        notes += classes.notes
    return found


def split_domains(domains: Domains, *, notes: list[str] | None = None) -> ImageSet:
    """A data set of domains in which about a fifth of each class of each domain is for testing."""
    both = {
        name: stratified_split({of: paths for of, paths in files.items() if paths}) for name, files in domains.items()
    }
    train, test = ({name: halves[side] for name, halves in both.items()} for side in (0, 1))
    return domain_set(train, test, notes=notes)


def domain_set(
    train: Domains, test: Domains | None = None, *, shared_test: Sequence[Files] = (), notes: list[str] | None = None
) -> ImageSet:
    """A data set of domains in this order. Classes come by name, and have one number in all domains.

    shared_test: instead of `test`, test images of domains that are not trained; they belong to no task.
    """
    domains = list(dict.fromkeys([*train, *(test or {})]))
    parts = [[*train.items()], [*(test.items() if test is not None else (("", files) for files in shared_test))]]
    classes = sorted({name for split in parts for _, files in split for name in files})
    numbers = {name: number for number, name in enumerate(classes)}
    places = {name: number for number, name in enumerate(domains)}
    listed = []
    for split in parts:
        rows = [
            (path, numbers[name], places.get(domain, -1))
            for domain, files in split
            for name, paths in files.items()
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
        None if test is None else test_domains,
    )
