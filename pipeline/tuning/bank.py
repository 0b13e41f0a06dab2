"""The tensors that the tasks so far have tuned, with their kind: enough to build the model without params.yaml."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.backbone.vit import Backbone
from pipeline.params import Record
from pipeline.store import artifacts
from pipeline.store.cumulative import newest_repeated
from pipeline.tuning.kind import Kind, find_kind, with_places


@dataclass(frozen=True)
class Bank:
    """Tensors of T tasks by the names of their places in the model: [T, ...] each. Empty if nothing is tuned."""

    tuning: str  # name of the kind
    kind: Kind
    options: Record
    tensors: Mapping[str, Tensor]

    @property
    def trained(self) -> int:
        """How many numbers the newest task has trained."""
        grows = self.kind.grows(self.options)
        newest = {name: rows[-1][-grows[name] :] if name in grows else rows[-1] for name, rows in self.tensors.items()}
        return sum(tensor.numel() for tensor in newest.values() if tensor.is_floating_point())

    def place(self, backbone: Backbone) -> Backbone:
        """The backbone with places for the tensors."""
        return with_places(backbone, self.kind, self.options)


def save_bank(path: Path, bank: Bank) -> None:
    """Store a bank, with its kind and options in the metadata."""
    artifacts.save_tensors(path, bank.tensors, {"tuning": bank.tuning, "options": bank.options.model_dump_json()})


def load_bank(path: Path, num_tasks: int) -> Bank:
    """The bank after `num_tasks` tasks. If one set of tensors serves all tasks, every row is a view of it.

    One set serves them if only the newest is kept, or if only the first task was tuned.
    """
    tensors, described = artifacts.load_tensors(path), artifacts.load_metadata(path)
    kind = find_kind(described["tuning"])
    options = kind.options(**json.loads(described["options"]))
    is_one = all(len(rows) == 1 for rows in tensors.values())
    rows = newest_repeated(tensors, num_tasks) if is_one else tensors
    return Bank(described["tuning"], kind, options, rows)
