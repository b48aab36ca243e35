"""Inductor: its front doors, its modes, and its settings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import fx
from torch.export import ExportedProgram


def compile_graph(gm: fx.GraphModule, examples: Sequence[Any], settings: dict[str, Any] | None) -> Callable[..., Any]:
    """Compile ``gm`` for ``examples``, real or fake, under ``settings``."""
    from torch._inductor import compile_fx  # by its module, so that who replaces the function there is heard

    compiled: Any = compile_fx.compile_fx(gm, list(examples), config_patches=settings)
    return compiled  # type: ignore[no-any-return]


def package(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    """Compile ``program`` ahead of time and write the package ``path`` (.pt2) with ``metadata``; all files on the way go to its folder."""
    from torch._inductor import aoti_compile_and_package, config

    # Inductor's own folder is everybody's: there two exports of one model with other weights would overwrite each other's, and weights stay.
    with config.patch({"aot_inductor.output_path": str(path.parent / "files")}):
        aoti_compile_and_package(program, package_path=str(path), inductor_configs={"aot_inductor.metadata": metadata})


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
