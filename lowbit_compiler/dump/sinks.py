"""Who asked to see a compilation: a dump folder, TORCH_TRACE (tlparse) or TORCH_COMPILE_DEBUG; and a record for them all."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import fx
from torch._logging._internal import LazyTraceHandler, trace_log, trace_structured

from lowbit_compiler.dump.diff import file_name, stage_diff
from lowbit_compiler.dump.files import new_folder, write_rest, write_stage
from lowbit_compiler.dump.record import Record, Recorder
from lowbit_compiler.dump.text import stage_text
from lowbit_compiler.passes.contract import Pass, PassContext
from lowbit_compiler.passes.runner import PassRun
from lowbit_compiler.report import Report

log = logging.getLogger("lowbit_compiler")


class Recording:
    """One compilation as it happens: fills the record, and writes each stage to wherever somebody looks.

    A folder that cannot be written to (a full disk, say) gets nothing more, with a warning: the compilation goes on.
    """

    def __init__(self, roots: Sequence[Path], gm: fx.GraphModule, ctx: PassContext, note: str) -> None:
        self.folders: list[Path] = []
        for root in roots:
            self._writing(root, lambda root=root: self.folders.append(new_folder(root)))  # type: ignore[misc]
        self.record = Record(ctx.recipe.name, compile_id=_compile_id())
        self._recorder = Recorder(self.record, ctx.parameters, ctx.sites)
        self._recorder.stage("capture", gm, note)
        self._written()

    def observe(self, p: Pass, run: PassRun, gm: fx.GraphModule) -> None:
        """Add the graph after a pass (observer of the runner)."""
        note = f"skipped: {run.skipped}" if run.skipped else f"{run.rewrites} rewrites, {run.seconds * 1e3:.0f} ms"
        counts = {"rewrites": run.rewrites, "seconds": run.seconds, "skipped": run.skipped}
        self._recorder.stage(p.name, gm, note, changed=run.rewrites > 0, **counts)
        self._written()

    def fail(self, gm: fx.GraphModule, error: Exception) -> None:
        """Add the graph that a pass left half rewritten."""
        self._recorder.stage("failed", gm, f"{type(error).__name__}: {error}".replace("\n", " "))
        self._written()

    def finish(self, report: Report) -> None:
        """Write what needs the whole compilation."""
        self.record.conclude(report)
        text = str(report)
        self._to_folders(lambda folder: write_rest(folder, self.record, text))
        _artifact("report", text)

    def _written(self) -> None:
        self._to_folders(lambda folder: write_stage(folder, self.record))
        if _tracing():
            number = len(self.record.stages) - 1
            if number == 0:
                _artifact("00_capture", stage_text(self.record.nodes_of(0)))
            elif self.record.stages[number].edits:
                _artifact(file_name(self.record, number, "diff"), stage_diff(self.record, number))

    def _to_folders(self, write: Callable[[Path], None]) -> None:
        self.folders = [folder for folder in self.folders if self._writing(folder, lambda folder=folder: write(folder))]  # type: ignore[misc]

    def _writing(self, where: Path, write: Callable[[], None]) -> bool:
        """Return whether ``write`` could write to ``where``; says so where it could not."""
        try:
            write()
        except (OSError, UnicodeError) as error:
            log.warning("the dump in %s is not complete: %s", where, error)
            return False
        return True


@contextmanager
def recording(folder: str | None, gm: fx.GraphModule, ctx: PassContext, note: str) -> Iterator[Recording | None]:
    """Record the rewriting of ``gm`` in the block; None where nobody asked. What an error leaves unfinished is written too."""
    roots = [Path(root) for root in (folder, _debug_folder()) if root]
    if not roots and not _tracing():
        yield None
        return
    result = Recording(roots, gm, ctx, note)
    try:
        yield result
    except Exception as error:
        result.fail(gm, error)
        result.finish(Report(ctx.recipe.name, fallback=f"{type(error).__name__}: {error}"))
        raise


def _tracing() -> bool:
    """Return whether torch writes its structured trace (its handler goes at the first event where no folder is set)."""
    return any(isinstance(handler, LazyTraceHandler) for handler in trace_log.handlers)


def _debug_folder() -> str | None:
    """Return the folder beside Inductor's of this process where TORCH_COMPILE_DEBUG=1 asks for one."""
    from torch._dynamo.utils import get_debug_dir
    from torch._inductor import config

    return f"{config.trace.debug_dir or get_debug_dir()}/lowbit" if config.trace.enabled else None


def _compile_id() -> str:
    current = torch._guards.CompileContext.current_compile_id()
    return "" if current is None else str(current)


def _artifact(name: str, text: str) -> None:
    """Hand ``text`` to torch's structured trace, where one is written."""
    if _tracing():
        trace_structured("artifact", metadata_fn=lambda: {"name": f"lowbit_{name}", "encoding": "string"}, payload_fn=lambda: text)
