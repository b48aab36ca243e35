"""One model to compile, with its inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Case:
    """A family: ``make`` returns a model in eval mode and its inputs; ``rewritten`` is the least number of sites to rewrite."""

    name: str
    make: Callable[[], tuple[nn.Module, dict[str, Any]]]
    rewritten: int
    recipe: str = "int8"
    fullgraph: bool = True
