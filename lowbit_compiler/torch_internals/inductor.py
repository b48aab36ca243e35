"""Inductor: its front doors, its modes, and its settings."""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import fx
from torch.export import ExportedProgram

_probes: list[threading.Thread] = []


def probe() -> None:
    """Start to find out, beside other work, what Inductor asks of the machine in every process; :func:`probed` waits for the answer.

    That is which vector instructions the C++ compiler and this machine have (some programs that are started, and first compiled where the cache
    on disk has none of them), and the hash of torch's sources: a second in which the asking thread has nothing to do, or many where caches
    are empty.
    """
    from torch._inductor import codecache, cpu_vec_isa  # here: two threads that import one another's modules would find them half made

    def ask() -> None:
        with contextlib.suppress(Exception):  # Inductor asks again, and says what is wrong
            cpu_vec_isa.valid_vec_isa_list()
            codecache.torch_key()

    if not _probes:
        settings = contextvars.copy_context()  # the caller's
        _probes.append(threading.Thread(target=settings.run, args=(ask,), name="lowbit-probe", daemon=True))
        _probes[0].start()


def probed() -> None:
    """Wait until nothing runs beside."""
    for thread in _probes:
        thread.join()


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
