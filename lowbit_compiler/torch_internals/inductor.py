"""Inductor: its front door, its modes, and its settings."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx


def compile_graph(gm: fx.GraphModule, examples: Sequence[Any], settings: dict[str, Any] | None) -> Callable[..., Any]:
    """Compile ``gm`` for ``examples``, real or fake, under ``settings``."""
    from torch._inductor import compile_fx  # by its module, so that who replaces the function there is heard

    compiled: Any = compile_fx.compile_fx(gm, list(examples), config_patches=settings)
    return compiled  # type: ignore[no-any-return]


def modes() -> dict[str, dict[str, Any]]:
    """Return the settings of every ``mode`` of torch.compile."""
    from torch._inductor import list_mode_options

    return list_mode_options()


def settings(values: dict[str, Any]) -> Any:
    """Return a context in which Inductor's settings of these names, dots and all, have these ``values``."""
    from torch._inductor import config

    return config.patch(values)


def debug_folder() -> str | None:
    """Return the folder where TORCH_COMPILE_DEBUG=1 makes Inductor write what it does; None where nobody asked."""
    from torch._dynamo.utils import get_debug_dir
    from torch._inductor import config

    return str(config.trace.debug_dir or get_debug_dir()) if config.trace.enabled else None
