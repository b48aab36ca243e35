"""A block of a model at work: its linears, its inputs, and what was found out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.preparing.hessian import Inputs, watched
from lowbit_compiler.preparing.layer import Layer

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Block:
    """``module`` with the calls that calibration makes of it."""

    def __init__(self, name: str, module: nn.Module, layers: Sequence[Layer], calls: Callable[[], Iterator[Call]]) -> None:
        """``calls`` returns all of them anew each time, with the inputs that the blocks before make now."""
        self.name, self.module, self.layers = name, module, list(layers)
        self.calls = calls
        self.notes: list[str] = []
        self.changed: dict[str, Tensor] = {}
        """Float parameters that methods replaced, by their names in the block, as they are now."""
        self.known: list[Inputs] | None = None
        """What was found out of the inputs of linears."""

    def name_of(self, module: nn.Module) -> str:
        """Return the name that ``module`` has in the block."""
        names: dict[nn.Module, str] = {each: name for name, each in self.module.named_modules()}
        return names[module]

    def say(self, note: str) -> None:
        """Note what users should know."""
        self.notes.append(note)

    def run(self) -> Iterator[Any]:
        """Yield what the block returns for each call."""
        for args, kwargs in self.calls():
            yield self.module(*args, **kwargs)

    def inputs(self) -> list[Inputs]:
        """Return what the linears read, those of one tensor together, in one pass over all calls."""
        if self.known is None:
            with watched(self.layers) as found:
                for _ in self.run():
                    pass
            self.known = found
        return self.known

    def replace(self, name: str, value: Tensor) -> None:
        """Write ``value`` into the float parameter ``name`` of the block; what is known of inputs is forgotten."""
        parameter = self.module.get_parameter(name)
        with torch.no_grad():
            parameter.copy_(value)
        self.changed[name] = parameter.detach().clone()
        self.known = None

    def release(self) -> None:
        """Forget the inputs."""
        self.known = None
