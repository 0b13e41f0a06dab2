"""Everything that training changes from step to step, so that another process can continue it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_GENERATOR = "generator"


@dataclass(frozen=True)
class Training:
    """A training in progress."""

    parameters: Sequence[Tensor]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its state, by name; shared, not copied."""
        moments = {
            f"optimiser.{index}.{name}": tensor
            for index, state in self.optimiser.state_dict()["state"].items()
            for name, tensor in state.items()
        }
        values = {f"parameter.{index}": parameter.detach() for index, parameter in enumerate(self.parameters)}
        return values | moments | {_GENERATOR: self.generator.get_state()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the state that `tensors` returned for the same parameters in the same order."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimiser."):
                _, number, name = key.split(".")
                state.setdefault(int(number), {})[name] = tensor
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{index}"])
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.generator.set_state(tensors[_GENERATOR])
