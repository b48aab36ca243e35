"""Who asked to see a compilation: a dump folder, TORCH_TRACE (tlparse) or TORCH_COMPILE_DEBUG; and a record for them all."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from lowbit_compiler.dump.diff import file_name, stage_diff
from lowbit_compiler.dump.files import new_folder, write_rest, write_stage
from lowbit_compiler.dump.record import Placed, Record, Recorder
from lowbit_compiler.graph_text import stage_text
from lowbit_compiler.passes.contract import Pass
from lowbit_compiler.passes.runner import PassRun
from lowbit_compiler.report import Report
from lowbit_compiler.torch_internals import inductor
from lowbit_compiler.torch_internals.dynamo import compile_id
from lowbit_compiler.torch_internals.logs import artifact, tracing

log = logging.getLogger("lowbit_compiler")


@dataclass(frozen=True)
class Subject:
    """What is compiled: the name of the recipe, what its inputs are called in the model, and the rows of the report."""

    recipe: str
    parameters: Mapping[str, str]
    sites: Sequence[Placed]


class Recording:
    """One compilation as it happens: fills the record, and writes each stage to wherever somebody looks.

    A folder that cannot be written to (a full disk, say) gets nothing more, with a warning: the compilation goes on.
    """

    def __init__(self, roots: Sequence[Path], gm: fx.GraphModule, subject: Subject, note: str) -> None:
        self.folders: list[Path] = []
        for root in roots:
            self._writing(root, lambda root=root: self.folders.append(new_folder(root)))  # type: ignore[misc]
        self.record = Record(subject.recipe, compile_id=compile_id())
        self._recorder = Recorder(self.record, subject.parameters, subject.sites)
        self.add("capture", gm, note)

    def add(self, name: str, gm: fx.GraphModule, note: str) -> None:
        """Add a stage."""
        self._recorder.stage(name, gm, note)
        self._written()

    def observe(self, p: Pass, run: PassRun, gm: fx.GraphModule) -> None:
        """Add the graph after a pass (observer of the runner)."""
        note = f"skipped: {run.skipped}" if run.skipped else f"{run.rewrites} rewrites, {run.seconds * 1e3:.0f} ms"
        counts = {"rewrites": run.rewrites, "seconds": run.seconds, "skipped": run.skipped}
        self._recorder.stage(p.name, gm, note, changed=run.rewrites > 0, **counts)
        self._written()

    def fail(self, gm: fx.GraphModule, error: Exception) -> None:
        """Add the graph that a pass left half rewritten."""
        self.add("failed", gm, f"{type(error).__name__}: {error}".replace("\n", " "))

    def finish(self, report: Report) -> None:
        """Write what needs the whole compilation."""
        self.record.conclude(report)
        text = str(report)
        self._to_folders(lambda folder: write_rest(folder, self.record, text))
        _artifact("report", text)

    def _written(self) -> None:
        self._to_folders(lambda folder: write_stage(folder, self.record))
        if tracing():
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
def recording(folder: str | None, gm: fx.GraphModule, subject: Subject, note: str) -> Iterator[Recording | None]:
    """Record the rewriting of ``gm`` in the block; None where nobody asked. What an error leaves unfinished is written too."""
    debug = inductor.debug_folder()
    roots = [Path(root) for root in (folder, debug and f"{debug}/lowbit") if root]
    if not roots and not tracing():
        yield None
        return
    result = Recording(roots, gm, subject, note)
    try:
        yield result
    except Exception as error:
        result.fail(gm, error)
        result.finish(Report(subject.recipe, fallback=f"{type(error).__name__}: {error}"))
        raise


def _artifact(name: str, text: str) -> None:
    """Hand ``text`` to torch's structured trace, where one is written."""
    if tracing():
        artifact(f"lowbit_{name}", text)
