"""What runs the rest of the graph: Inductor, or eager for debugging."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx


def compile_remainder(gm: fx.GraphModule, examples: Sequence[Any], kind: str, mode: str | None) -> Callable[..., Any]:
    """Compile ``gm`` for ``examples`` (real or fake inputs) with Inductor in ``mode``, or return it as it is."""
    if kind == "eager":
        return gm.forward
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx

    compiled: Any = compile_fx(gm, list(examples), config_patches=list_mode_options(mode) if mode else None)
    return compiled  # type: ignore[no-any-return]
