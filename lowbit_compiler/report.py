"""What one compilation did: every product and softmax with its decision, reason and kernel."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lowbit_compiler.passes.runner import PassRun
from lowbit_compiler.passes.site import Site

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text


@dataclass(frozen=True)
class Measured:
    """What running one site showed on given inputs; None where that was not measured."""

    sqnr: float | None = None
    """dB, of the site's output against the float64 product of the same operands."""
    cosine: float | None = None
    error: float | None = None
    """Largest difference of an output element from the float64 product."""
    bound: float | None = None
    """Largest certificate of an output element: what its error cannot exceed."""
    tightness: float | None = None
    """Largest error of an output element over that element's own certificate; above 1 only where a weight or a kernel is wrong."""
    weight_tightness: float | None = None
    """Largest error of an element of the packed weight over what rounding it allows; above 1 only where it is wrong."""
    effect: float | None = None
    """Relative error of the model's output where this site alone is low-bit."""
    outlier_share: float | None = None
    """Elements of the activations that the treatment keeps exact, over all of them."""
    activation_scales: tuple[float, float, float] | None = None
    """Smallest, median and largest."""
    weight_scales: tuple[float, float, float] | None = None
    seconds: float | None = None
    """Time of the op in one run of the compiled model."""
    floor: float | None = None
    """Seconds that its bytes need at the memory's bandwidth, or its operations at the peak, whichever is more."""


@dataclass(frozen=True)
class SiteReport:
    """One row: where a site is, what was decided, why, and what it saves (bytes of weight)."""

    module: str
    kind: str
    op: str
    shape: str
    decision: str
    reason: str
    detail: str
    lowered_to: str
    kernel: str
    saved_bytes: int
    merged_with: tuple[str, ...]
    prologue: str = ""
    graph: int = 0
    """Which of the report's graphs the site is in."""
    node: str = ""
    """Name of the site's node in the rewritten graph."""
    no_prologue: str = ""
    """Why an activation or normalization in front of the product is not part of it; "" where there is none, or it is."""
    measured: Measured | None = None


def site_report(site: Site) -> SiteReport:
    """Return the row of ``site``."""
    return SiteReport(
        module=site.module or "(function)",
        kind=site.kind,
        op=site.found.op,
        shape=site.found.shape,
        decision=site.decision,
        reason="" if site.reason is None else site.reason.value,
        detail=site.detail,
        lowered_to=f"lowbit::{site.lowered_to}" if site.lowered_to else "",
        kernel=site.became.kernel,
        prologue=site.became.prologue,
        saved_bytes=site.became.saved_bytes if site.plan is not None else 0,
        merged_with=site.became.merged_with,
        node=site.call.name,
        no_prologue=site.became.no_prologue,
    )


@dataclass
class Report:
    """The newest compilation (or, from ``explain``, all graphs of a model); ``str()`` is a table, ``to_json()`` plain data."""

    recipe: str
    graphs: int = 1
    sites: list[SiteReport] = field(default_factory=list)
    passes: list[PassRun] = field(default_factory=list)
    fallback: str = ""
    """Why the whole graph was left to the remainder's compiler ("" where it was not)."""
    notes: list[str] = field(default_factory=list)
    timed: dict[str, dict[str, float]] = field(default_factory=dict)
    """What decisions rest on: the seconds of each candidate, by call, measured or from a plan file."""

    @property
    def rewritten(self) -> list[SiteReport]:
        """The sites that became low-bit ops."""
        return [site for site in self.sites if site.decision == "rewritten"]

    @property
    def emulated(self) -> list[SiteReport]:
        """The products of quantized operands that no op computes: quantized, dequantized and multiplied in float."""
        return [site for site in self.sites if site.decision == "emulated"]

    @property
    def declined(self) -> list[SiteReport]:
        """The sites left in float."""
        return [site for site in self.sites if site.decision == "declined"]

    @property
    def saved_bytes(self) -> int:
        """Bytes of weights saved."""
        return sum(site.saved_bytes for site in self.sites)

    def reasons(self) -> Counter[str]:
        """Return how many sites were declined for each reason."""
        return Counter(f"{site.kind}: {site.reason}" for site in self.declined)

    def to_json(self) -> str:
        """Return the report as JSON text: keys as in Report and SiteReport."""
        return json.dumps(asdict(self), indent=1)

    def extend(self, other: "Report") -> None:
        """Add the graphs of ``other``."""
        self.sites += [replace(site, graph=site.graph + self.graphs) for site in other.sites]
        self.graphs += other.graphs
        self.passes += other.passes
        self.notes += [note for note in other.notes if note not in self.notes]
        self.timed |= other.timed
        self.fallback = self.fallback or other.fallback

    def summary(self) -> str:
        """Return one line."""
        emulated = f", {len(self.emulated)} emulated" if self.emulated else ""
        sites = f"{len(self.rewritten)} of {len(self.sites)} sites rewritten{emulated}"
        text = f"recipe {self.recipe}: {sites}, {self.saved_bytes / 1e6:.1f} MB saved"
        return f"{text}; whole graph left in float: {self.fallback}" if self.fallback else text

    def __rich__(self) -> "Group":
        from rich.console import Group  # here and below: compiling alone needs only torch and networkx

        return Group(_site_table(self.sites), *_footer(self))

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=180)
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


MEASURED = ("SQNR dB", "error", "bound", "error/bound", "weight")


def cell(number: float | None, style: str) -> str:
    """Return a number of a table, "inf" for one that stands for infinity, or a blank."""
    return "" if number is None else "inf" if number > 1e300 else format(number, style)


def ratio(number: float | None) -> "Text":
    """Return the cell of an error over its bound, red above 1."""
    from rich.text import Text

    return Text(cell(number, ".2f"), style="bold red" if (number or 0.0) > 1.0 else "")


def _site_table(sites: Sequence[SiteReport]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("module", "op", "shape", "decision", "reason or op", "kernel"):
        table.add_column(name, overflow="fold")
    table.add_column("saved MB", justify="right")
    measured = any(site.measured is not None and site.measured.bound is not None for site in sites)
    for name in MEASURED if measured else ():
        table.add_column(name, justify="right", no_wrap=True)
    for site in sites:
        why = site.lowered_to if site.decision == "rewritten" else site.reason
        why += f" with {site.prologue}" if site.prologue else ""
        why = ": ".join(filter(None, (why, site.detail)))
        if site.merged_with:
            why += f" (merged with {', '.join(name.rpartition('.')[2] for name in site.merged_with)})"
        saved = f"{site.saved_bytes / 1e6:.2f}" if site.saved_bytes else ""
        numbers = _numbers(site.measured) if measured else ()
        table.add_row(site.module, site.op, site.shape, site.decision, why, site.kernel, saved, *numbers)
    return table


def _numbers(row: Measured | None) -> "tuple[str | Text, ...]":
    """Return the cells below MEASURED."""
    row = row or Measured()
    numbers = cell(row.sqnr, ".1f"), cell(row.error, ".2g"), cell(row.bound, ".2g")
    return *numbers, ratio(row.tightness), ratio(row.weight_tightness)


def _footer(report: Report) -> list[Any]:
    ran = "  ".join(f"{run.name} {'skipped: ' + run.skipped if run.skipped else run.rewrites}" for run in report.passes)
    lines = [report.summary(), f"passes: {ran}"]
    return [*lines, *(f"note: {note}" for note in report.notes)]
