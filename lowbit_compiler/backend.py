"""The entry point of ``torch.compile(model, backend="lowbit")``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from lowbit_compiler.compile.driver import compile_dynamo
from lowbit_compiler.options import parse

__all__ = ["lowbit"]


def lowbit(
    gm: fx.GraphModule, examples: Sequence[Any], *, mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Compile Dynamo's graph to low precision.

    ``options`` are listed in docs/options.md; ``mode`` is passed on to Inductor. Raises OptionError for a bad option before anything
    is compiled. A graph that needs gradients, or one that a pass fails on, runs whole in float, and the report says so.
    """
    return compile_dynamo(gm, examples, parse(options, mode))
