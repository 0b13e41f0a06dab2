"""The order in which classes arrive: by seed, as the data set lists them, as published, or from a file.

Tasks are cut from this order. The order of the PyCIL line is computed as that code computes it, not copied.
"""

from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np

from pipeline.data.lists import listed_file, read_lines
from pipeline.errors import UserError
from pipeline.store import artifacts
from pipeline.tasks import class_order

COMPUTED = ("random", "natural", "pycil_1993")


def ordered(name: str, classes: Sequence[str], groups: Sequence[str], seed: int) -> list[int]:
    """The numbers of all classes in the order of this name. classes, groups: one per class, as the data set lists them.

    Raises UserError for a list that is missing, or that does not name every class once.
    """
    if name == "random":
        return class_order(classes, groups, seed)
    if name == "natural":
        return list(range(len(classes)))
    if name == "pycil_1993":
        return pycil_order(len(classes), 1993)
    return _listed(listed_file(artifacts.ORDERS, name, "class_order", COMPUTED), classes)


def pycil_order(classes: int, seed: int) -> list[int]:
    """The order of PyCIL and the code derived from it: np.random.seed(seed); np.random.permutation(classes).

    It holds for classes in the order of their labels: CIFAR-100's by name, folders of ImageNet by WordNet number.
    """
    order: list[int] = np.random.RandomState(seed).permutation(classes).tolist()
    return order


def _listed(path: Path, classes: Sequence[str]) -> list[int]:
    numbers = {name: number for number, name in enumerate(classes)}
    order: list[int] = []
    for line in read_lines(path):
        name = line if line in numbers else normalize("NFC", line)
        number = numbers.get(name, int(line) if line.isascii() and line.isdigit() and len(line) < 10 else -1)
        if not 0 <= number < len(classes):
            raise UserError(
                f"{path}: the data set has no class {line!r}: data/raw/classes.json lists its {len(classes)}"
            )
        if number in order:
            raise UserError(f"{path}: class {line!r} comes twice: an order names every class once")
        order.append(number)
    if missing := [name for name in classes if numbers[name] not in set(order)]:
        raise UserError(f"{path}: class {missing[0]!r} is missing: an order names all {len(classes)} classes")
    return order
